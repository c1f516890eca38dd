"""Tells whether this environment can reproduce a run: versions, plugins, files, data and settings.

A run's record is data. What it says about plugin files is compared, and none of them is loaded because the
record names it; the caller names the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen

from learnforge.check import Tasks, check_recipe
from learnforge.context import choose_device
from learnforge.errors import LearnforgeError, RunError
from learnforge.files import read_record
from learnforge.fingerprints import fingerprints
from learnforge.plugins.choice import PluginChoice, Wish
from learnforge.plugins.identity import ADDED, code_of
from learnforge.plugins.registry import Plugins
from learnforge.recipe import parse_recipe, read_recipe
from learnforge.record import versions

MOST_FILES = 5
"""Changed files that are named."""

NOT_GIVEN = "not given"
"""Stands for a plugin file that the caller did not name."""


@frozen
class Difference:
    """One thing that is not as it was when the run was made.

    Args:
        what: What differs, such as `torch`.
        then: What the record says.
        now: What is here.
        advice: What to do about it.
    """

    what: str
    then: Any
    now: Any
    advice: str = ""

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.what}: was {self.then}, is {self.now}{advice}"


def compare(folder: Path, choice: PluginChoice | None = None) -> list[Difference]:
    """List all that would keep a run from giving the same bits here; none means that it can be reproduced.

    Args:
        folder: The run's folder.
        choice: The plugin files of the run, and what else the command line says of plugins.

    Raises:
        RunError: The folder holds no run, or its record is damaged.
    """
    record = _read(folder)
    given = choice or PluginChoice()
    found = [*_compare_conditions(record), *_compare_files(record, given)]
    path = folder / "recipe.toml"
    data = read_recipe(path)
    if "stage" not in data:
        advice = "repeat the call; versions and plugin files are compared here, and nothing else"
        return [*found, Difference("recipe", "a call in Python", "not known from the record", advice)]
    try:
        plugins = Plugins(_choice(record, given))
        found += _compare_plugins(record, plugins)
        recipe = parse_recipe(data, plugins, str(path))
        tasks = Tasks()
        check_recipe(recipe, plugins, tasks)
        device = str(choose_device(recipe.run.device))
        prints = fingerprints(recipe, plugins, tasks)
    except LearnforgeError as error:
        if any(difference.now == NOT_GIVEN for difference in found):
            return found  # what the file brings is missing, and no second difference
        return [*found, Difference("recipe", "one that ran", "one that cannot run here", str(error))]
    found += [Difference("device", then, device) for then in _devices(record) if then != device]
    return [*found, *_compare_sources(record, plugins), *_compare_stages(record, prints)]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        record = read_record(path)
        for stage in record["stages"]:
            stage["name"], stage["fingerprint"], stage["kind"], stage["parts"]  # what is read below
        for wish in record["plugins"]["wishes"]:
            wish["where"], wish["enable"], wish["disable"], wish["settings"], wish["is_general"]
        (
            record["plugins"]["files"],
            record["plugins"]["code"],
            _conditions(record),
        )
    except FileNotFoundError as error:
        raise RunError(f"{folder} must be the folder of a run, it has no run.json") from error
    except (KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read as the record of a run: {error!r}") from error
    if not (folder / "recipe.toml").is_file():
        raise RunError(f"{folder} must be the folder of a run, it has no recipe.toml")
    return record


def _conditions(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return under which conditions the finished stages were made, each once."""
    unique: list[dict[str, Any]] = []
    for stage in record["stages"]:
        made = stage["made_with"]
        if made and made not in unique:
            made["versions"], made["threads"], made["device"], made["workers"], made["loaded"]
            unique.append(made)
    return unique


def _choice(record: Mapping[str, Any], given: PluginChoice) -> PluginChoice:
    """Repeat what the run was told about plugins, overruled by what is said now and by the environment."""
    wishes = tuple(
        Wish(
            f"the run's {wish['where']}",
            tuple(wish["enable"]),
            tuple(wish["disable"]),
            wish["settings"],
            wish["is_general"],
        )
        for wish in record["plugins"]["wishes"]
    )
    choice = PluginChoice(files=given.files, strict=given.strict, overrules=wishes, where="(none)")
    return choice.overruled(Wish(given.where, given.enable, given.disable))


def _compare_conditions(record: Mapping[str, Any]) -> list[Difference]:
    """Hold versions, threads and workers of every stage against what is here."""
    here, threads = versions(), torch.get_num_threads()
    found: dict[tuple[str, Any], Difference] = {}
    for made in _conditions(record):
        for name, then in made["versions"].items():
            if here.get(name) != then:
                found[name, then] = Difference(name, then, here.get(name, "missing"), _pip(name, then))
        if made["threads"] != threads:
            then = made["threads"]
            advice = f"set OMP_NUM_THREADS={then}"
            found["threads", then] = Difference("threads of torch", then, threads, advice)
    return [*found.values(), *_timed(record)]


def _timed(record: Mapping[str, Any]) -> list[Difference]:
    """List searches whose trials depended on which of them ended first."""
    return [
        Difference(
            f"stage {stage['name']!r}",
            f"{stage['made_with']['workers']} workers without `batch`",
            "a matter of timing",
            "set `batch`, and parallel searches repeat",
        )
        for stage in record["stages"]
        if stage["made_with"] and stage["made_with"]["workers"] > 1
        if any(search["batch"] is None for search in _searches(stage))
    ]


def _searches(stage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the settings of every search in a stage: of architectures, of its options, of a student."""
    settings = stage["parts"]["settings"]
    inner = [settings.get(key) for key in ("tune", "student")]
    own = [settings] if stage["kind"] == "search" else []
    return own + [search for search in inner if isinstance(search, Mapping) and "batch" in search]


def _pip(name: str, version: str) -> str:
    is_package = name not in ("python", "machine") and "+source." not in version
    return f"pip install {name}=={version}" if is_package else ""


def _compare_files(record: Mapping[str, Any], given: PluginChoice) -> list[Difference]:
    """Hold the files that the caller names against those of the record, by name and content."""
    here = {file.name: file.sha256 for file in given.files}
    differences = []
    for file in record["plugins"]["files"]:
        name, then = file["name"], _hash_words(file["sha256"])
        if name not in here:
            advice = f"pass --plugin with that file; it was {file['path']}"
            differences.append(Difference(f"plugin file {name}", then, NOT_GIVEN, advice))
        elif here[name] != file["sha256"]:
            now = _hash_words(here[name])
            differences.append(Difference(f"plugin file {name}", then, now, "pass the file as it was"))
    return differences


def _devices(record: Mapping[str, Any]) -> list[str]:
    return sorted({made["device"] for made in _conditions(record)})


def _loaded(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the plugins that took part in finished stages: from distributions other than learnforge's own."""
    files = {file["name"] for file in record["plugins"]["files"]} | {"learnforge"}
    entries = [entry for made in _conditions(record) for entry in made["loaded"]]
    return [entry for entry in entries if entry["distribution"] not in files]


def _compare_plugins(record: Mapping[str, Any], plugins: Plugins) -> list[Difference]:
    """Hold every distribution that brought a plugin of the run against what is installed."""
    found: dict[str, Difference] = {}
    for then in _loaded(record):
        owner, version = then["distribution"], then["version"]
        if owner == ADDED:
            what = f"hooks {then['name']!r}"
            found[what] = Difference(what, ADDED.strip("()"), "not known from the record", "add them again")
            continue
        here = next((p for p in plugins.found if p.name == then["name"] and p.is_of(owner)), None)
        if here is None or here.version != version:
            now = here.version if here else "missing"
            found[owner] = Difference(owner, version, now, f"pip install {owner}=={version}")
    return list(found.values())


def _compare_sources(record: Mapping[str, Any], plugins: Plugins) -> list[Difference]:
    """Hold every file of the distributions that took part against the record."""
    here = code_of(plugins.loaded)
    found = []
    for owner, then in record["plugins"]["code"].items():
        now = here.get(owner, then)
        changed = sorted(name for name in {**then, **now} if then.get(name) != now.get(name))
        if changed:
            more = f" and {len(changed) - MOST_FILES} more" if len(changed) > MOST_FILES else ""
            words = f"another one: {', '.join(changed[:MOST_FILES])}{more} changed"
            found.append(Difference(f"code of {owner}", "that of the run", words))
    return found


def _hash_words(source: str) -> str:
    return f"SHA-256 {source[:12]}…" if source else "an installed version"


def _compare_stages(record: Mapping[str, Any], prints: Mapping[str, str]) -> list[Difference]:
    return [
        Difference(
            f"stage {stage['name']!r}",
            f"fingerprint {stage['fingerprint'][:12]}…",
            f"{prints.get(stage['name'], 'missing')[:12]}…",
            "its code, data, settings or an input have changed",
        )
        for stage in record["stages"]
        if prints.get(stage["name"]) != stage["fingerprint"]
    ]
