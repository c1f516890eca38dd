"""Recipes with something wrong in them, through `check`, and what it accepts through `run`."""

from __future__ import annotations

import copy
import tomllib
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, time
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import attrs
import tomli_w
from attrs import define, field

from learnforge import Plugins
from learnforge.kinds.stage import Stage
from learnforge.options.structure import option_key, option_types
from learnforge_kit import Train
from tests.campaigns.campaign import Campaign
from tests.campaigns.desk import CANARY
from tests.core.recipes import DISTILL, ROAD

HOSTILE: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 10**9, 10**18, -(10**18), 0.0, -0.5, 0.5, 1e-300, 1e300, float("nan"), float("inf")),
    *(
        "",
        "cpu",
        "cuda:7",
        "auto",
        "/",
        "../..",
        "/dev/zero",
        "/proc/self/mem",
        "x" * 5000,
        "a\nb",
        "\x1b[2J",
    ),
    *(
        f"__import__('os').system('touch {CANARY}')",
        "os:system",
        "${HOME}",
        "~nobody/x",
        "kd",
        "\u202e",
        "\x00",
    ),
    *(date(2026, 11, 29), datetime(2026, 11, 29, 12, tzinfo=UTC), time(12)),
    *([], {}, [[]], [0], ["a", "b"], [1e9], {"use": "kd"}, {"use": 1}, {"low": 1}, {"low": 2, "high": 1}),
    *({"low": 1, "high": 2, "log": True}, {"choices": []}, {"choices": [1, "a"]}, True, False),
)
PLAUSIBLE: tuple[Any, ...] = (0, 1, 2, 3, 5, 7, 16, 32, 0.1, 0.5, 0.9, 1.0, 2.0, True, False, "off", "auto")
MOST_WORK = 32
"""Numbers above it may stand for hours of honest work, so what holds one is checked and not run."""
NOT_OPTIONS = ("kind", "name", "method", "ranges", "tune")
"""Fields of stages that the recipe spells in another way."""
MAY_END_SO = ("must be finite",)
"""Words of errors that only training can meet."""
RUN_SECONDS = 300.0
QUICK: dict[str, Any] = {
    "run": {"name": "quick", "device": "cpu"},
    "task": {"use": "digits", "classes": [0, 1, 2]},
}
STAGES: dict[str, dict[str, Any]] = {
    "search": {
        "use": "random",
        "space": {"use": "residual", "stages": 1, "blocks": 1, "max_width": 8},
        "trials": 2,
        "train": {"epochs": 1},
        "retrain": {"epochs": 1},
    },
    "distill": {
        "use": "kd",
        "teacher": {"use": "conv4", "width": 4, "blocks": 2},
        "teacher_train": {"epochs": 1},
        "student": {"use": "conv4", "width": 4, "blocks": 1},
        "train": {"epochs": 1},
        "baseline": False,
    },
    "transfer": {
        "use": "fine-tune",
        "from": {"use": "conv4", "width": 4, "blocks": 1},
        "task": {"use": "digits", "classes": [6, 8]},
        "train": {"epochs": 1},
        "baseline": False,
    },
    "meta": {
        "use": "maml",
        "from": {"use": "conv4", "width": 4, "blocks": 1},
        "task": {"use": "digits", "test_classes": [4, 7, 9]},
        "episodes": {"ways": 2, "shots": 1, "queries": 2},
        "engine": "loop",
        "iterations": 2,
        "tasks": 1,
        "validation_episodes": 3,
        "test_episodes": 400,
    },
    "export": {"use": "torch-export", "from": {"use": "conv4", "width": 4, "blocks": 1}},
}
SOURCE = {"use": "digits", "classes": [0, 1]}
"""What a method that adapts to another domain learns from."""
METHODS = {
    "search": "searcher",
    "distill": "distiller",
    "transfer": "transfer",
    "meta": "meta-learner",
    "export": "exporter",
}


@define
class Recipes(Campaign):
    """Damages a recipe in one to three places, checks it, and now and then runs what `check` accepts.

    Args:
        run_share: Share of accepted recipes that are run, in [0, 1].
    """

    name: ClassVar[str] = "recipes"
    run_share: float = 0.2
    plugins: Plugins = field(factory=Plugins)
    bases: list[dict[str, Any]] = field(factory=list)

    def prepare(self) -> None:
        """Gather the recipes to start from."""
        folder = resources.files("learnforge_plugins.recipes")
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".toml"):
                self.bases.append(tomllib.loads(file.read_text("utf-8")))
        self.bases += [tomllib.loads(ROAD), DISTILL]

    def attempt(self, rng: Random, folder: Path) -> list[str]:
        """Check one recipe, and perhaps run it."""
        data = self._base(rng)
        # one half is nonsense that must be refused in words, the other could have been meant
        damage = self._damage if rng.random() < 0.5 else self._set_fitting
        for _ in range(rng.choice((1, 1, 2, 3))):
            damage(data, rng)
        file = folder / "recipe.toml"
        file.write_bytes(_as_text(data, rng))
        outcome = self.desk.run(["check", file.name], folder)
        found = outcome.faults() + _strays(folder)
        if outcome.code == 0 and rng.random() < self.run_share and _is_quick(data):
            run = self.desk.run(["run", file.name], folder, RUN_SECONDS)
            found += run.faults() + _strays(folder)
            if run.code and not any(words in run.output for words in MAY_END_SO):
                found.append(f"`check` accepts, and `run` refuses: {run.output.strip()[-400:]}")
        return found

    def _base(self, rng: Random) -> dict[str, Any]:
        """Return a recipe in order: a built-in one, or some stages with methods that may not fit."""
        if rng.random() < 0.3:
            return copy.deepcopy(rng.choice(self.bases))
        kinds = sorted(rng.sample(sorted(STAGES), rng.choice((1, 1, 2, 3))), key=list(STAGES).index)
        stages = []
        for kind in kinds:
            table = {"kind": kind, "name": kind, **copy.deepcopy(STAGES[kind])}
            if rng.random() < 0.5:
                table["use"] = rng.choice(self.plugins.names(METHODS[kind]))
            if kind == "transfer" and rng.random() < 0.5:
                table |= {"source_task": SOURCE, "task": {"use": "digits", "classes": [0, 1]}}
            if stages and rng.random() < 0.7:
                for role in ("from", "teacher"):
                    table.pop(role, None)
                table.pop("teacher_train", None)
            stages.append(table)
        return {**copy.deepcopy(QUICK), "stage": stages}

    def _damage(self, data: dict[str, Any], rng: Random) -> None:
        ways: list[Callable[[dict[str, Any], Random], None]] = [
            *[_replace] * 3,
            _drop,
            _add,
            _move,
            *[self._set_hostile] * 3,
        ]
        rng.choice(ways)(data, rng)

    def _set_hostile(self, data: dict[str, Any], rng: Random) -> None:
        """Give an option that exists a value that it may not have."""
        for table, option, _ in self._choose_option(data, rng):
            table[option_key(option)] = copy.deepcopy(rng.choice(HOSTILE))

    def _set_fitting(self, data: dict[str, Any], rng: Random) -> None:
        """Give an option a value of its type."""
        for table, option, owner in self._choose_option(data, rng):
            kind, value = option.metadata.get("plugin"), None
            if kind:
                value = {"use": rng.choice(self.plugins.names(kind))}
                value = [value] if option.metadata["many"] else value
            table[option_key(option)] = value or _fitting(option_types(owner)[option.name], rng)

    def _choose_option(
        self, data: dict[str, Any], rng: Random
    ) -> Iterator[tuple[dict[str, Any], attrs.Attribute[Any], type]]:
        """Yield a table, and an option of a stage, its method, its task or its training that it may hold."""
        stages = [
            s for s in _listed(data.get("stage")) if isinstance(s, dict) and s.get("kind") in list(STAGES)
        ]
        for stage in rng.sample(stages, min(1, len(stages))):
            places: list[tuple[Any, type]] = [(stage, self.plugins.load("stage", stage["kind"], Stage))]
            with suppress(Exception):  # damaged before
                method = self.plugins.load(METHODS[stage["kind"]], stage["use"])
                places.append((stage.setdefault("options", {}), method))
            places += [(stage["train"], Train)] if "train" in stage else []
            table, owner = rng.choice(places)
            options = [f for f in attrs.fields(owner) if f.init and f.name not in NOT_OPTIONS]
            if options and isinstance(table, dict):
                yield table, rng.choice(options), owner


def _fitting(hint: Any, rng: Random) -> Any:
    """Return a value of a type that an option has, such as a recipe in order might hold."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return rng.choice(parts)
    if get_origin(hint) in (Union, types.UnionType):
        return _fitting(rng.choice([part for part in parts if part is not type(None)]), rng)
    if get_origin(hint) is tuple:
        return [_fitting(parts[0], rng) for _ in range(rng.randrange(3))]
    if hint is bool:
        return rng.random() < 0.5
    if isinstance(hint, type) and attrs.has(hint):
        option = rng.choice([f for f in attrs.fields(hint) if f.init])
        return {option_key(option): _fitting(option_types(hint)[option.name], rng)}
    if hint in (int, float):
        return hint(rng.choice([value for value in PLAUSIBLE if not isinstance(value, (str, bool))]))
    return copy.deepcopy(rng.choice(PLAUSIBLE))


def _places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all values."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path for key, value in inner for path in [(*at, key), *_places(value, (*at, key))]]


def _holder(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        data = data[key]
    return data


def _replace(data: dict[str, Any], rng: Random) -> None:
    path = rng.choice(_places(data) or [("run",)])
    _holder(data, path)[path[-1]] = copy.deepcopy(rng.choice(HOSTILE))


def _drop(data: dict[str, Any], rng: Random) -> None:
    path = rng.choice(_places(data) or [("run",)])
    holder = _holder(data, path)
    if isinstance(holder, list):
        del holder[path[-1]]
    else:
        holder.pop(path[-1], None)


def _add(data: dict[str, Any], rng: Random) -> None:
    tables = [data, *(v for p in _places(data) if isinstance(v := _holder(data, p)[p[-1]], dict))]
    word = rng.choice(("use", "options", "stage", "task", "__class__", "a\nb", "", "train", "from", "files"))
    rng.choice(tables)[word] = copy.deepcopy(rng.choice(HOSTILE))


def _move(data: dict[str, Any], rng: Random) -> None:
    """Put one part of the recipe where another stands."""
    places = _places(data)
    if places:
        one, other = rng.choice(places), rng.choice(places)
        value = copy.deepcopy(_holder(data, one)[one[-1]])
        _holder(data, other)[other[-1]] = value


def _as_text(data: Mapping[str, Any], rng: Random) -> bytes:
    """Spell a recipe, now and then not quite as TOML."""
    text = tomli_w.dumps(data).encode()
    chance, place = rng.random(), rng.randrange(len(text) + 1)
    if chance < 0.05:
        return text[:place] + bytes([rng.randrange(256)]) + text[place + 1 :]
    if chance < 0.08:
        return text[:place]
    if chance < 0.1:
        return text + b"\nx = " + b"[" * 600 + b"]" * 600
    return text


def _is_quick(data: Any) -> bool:
    values = [_holder(data, path)[path[-1]] for path in _places(data)]
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    is_small = all(abs(number) <= MOST_WORK or number == 400 for number in numbers)  # episodes of a test
    return is_small and all(
        isinstance(s, dict) and s.get("kind") in STAGES for s in _listed(data.get("stage"))
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _strays(folder: Path) -> list[str]:
    """Name what lies where no command was asked to write."""
    known = {"recipe.toml", "runs"}
    return [
        f"made {path.name!r} in the working folder" for path in folder.iterdir() if path.name not in known
    ]
