"""Tells whether this environment can reproduce a run: versions, plugins, files, data and settings.

A run's record is data. What it says about plugin files is compared, and none of them is loaded because the
record names it; the caller names the files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from attrs import frozen

from learnforge.context import choose_device
from learnforge.discovery import PluginChoice
from learnforge.discovery.choice import Wish
from learnforge.errors import LearnforgeError, RunError
from learnforge.fingerprints import fingerprints
from learnforge.plugins import Plugins
from learnforge.recipe import Tasks, check_recipe, parse_recipe, read_recipe
from learnforge.runner import versions


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
    found = _compare_versions(record) + _compare_threads(record) + _compare_files(record, given)
    try:
        plugins = Plugins(_choice(record, given))
        recipe = parse_recipe(read_recipe(folder / "recipe.toml"), plugins, str(folder / "recipe.toml"))
        tasks = Tasks()
        check_recipe(recipe, plugins, tasks, str(folder / "recipe.toml"))
        found += _compare_device(record, recipe.run.device)
        prints = fingerprints(recipe, plugins, tasks)
    except LearnforgeError as error:
        return [*found, Difference("recipe", "one that ran", "one that cannot run here", str(error))]
    found += _compare_plugins(record, plugins)
    return found + _compare_stages(record, prints)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record["versions"], record["plugins"]["loaded"], record["stages"]  # what is read below
    except FileNotFoundError as error:
        raise RunError(f"{folder} must be the folder of a run, it has no run.json") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read as the record of a run: {error}") from error
    return record


def _choice(record: Mapping[str, Any], given: PluginChoice) -> PluginChoice:
    """Repeat what the run was told about plugins, overruled by what is said now."""
    wishes = tuple(
        Wish(wish["where"], tuple(wish["enable"]), tuple(wish["disable"]))
        for wish in record["plugins"]["wishes"]
    )
    choice = PluginChoice(files=given.files, strict=given.strict, overrules=wishes, where="(none)")
    return choice.overruled(given.where, given.enable, given.disable)


def _compare_versions(record: Mapping[str, Any]) -> list[Difference]:
    here = versions()
    return [
        Difference(name, then, here.get(name, "missing"), _pip(name, then))
        for name, then in record["versions"].items()
        if here.get(name) != then
    ]


def _compare_threads(record: Mapping[str, Any]) -> list[Difference]:
    then, now = record["threads"], torch.get_num_threads()
    return [Difference("threads of torch", then, now, f"set OMP_NUM_THREADS={then}")] if then != now else []


def _pip(name: str, version: str) -> str:
    return "" if name in ("python", "machine") else f"pip install {name}=={version}"


def _compare_files(record: Mapping[str, Any], given: PluginChoice) -> list[Difference]:
    """Hold the files that the caller names against those of the record, by name and content."""
    here = {file.name: file.sha256 for file in given.files}
    differences = []
    for file in record["plugins"]["files"]:
        name, then = file["name"], f"SHA-256 {file['sha256'][:12]}…"
        if name not in here:
            advice = f"pass --plugin with that file; it was {file['path']}"
            differences.append(Difference(f"plugin file {name}", then, "not given", advice))
        elif here[name] != file["sha256"]:
            now = f"SHA-256 {here[name][:12]}…"
            differences.append(Difference(f"plugin file {name}", then, now, "pass the file as it was"))
    return differences


def _compare_device(record: Mapping[str, Any], wanted: str) -> list[Difference]:
    device = str(choose_device(wanted))
    return [Difference("device", record["device"], device)] if device != record["device"] else []


def _compare_plugins(record: Mapping[str, Any], plugins: Plugins) -> list[Difference]:
    """Hold every distribution that brought a plugin of the run against what is installed."""
    found: dict[str, Difference] = {}
    for then in record["plugins"]["loaded"]:
        owner, version = then["distribution"], then["version"]
        here = next((p for p in plugins.found if p.name == then["name"] and p.is_of(owner)), None)
        is_file = any(file["name"] == owner for file in record["plugins"]["files"])
        if is_file or (here is not None and here.version == version):
            continue
        now = here.version if here else "missing"
        found.setdefault(owner, Difference(owner, version, now, f"pip install {owner}=={version}"))
    return [difference for name, difference in found.items() if name != "learnforge"]


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
