"""Recipes: TOML in, frozen objects out, every error at once with its TOML path. A recipe is data and can
execute nothing.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve, field, frozen
from attrs.validators import ge

from learnforge.errors import PluginError, Problem, RecipeError, nearest
from learnforge.kinds.stage import Stage
from learnforge.kinds.task import TaskSource
from learnforge.options.ranges import take_ranges
from learnforge.options.structure import option_key, structure
from learnforge.plugins.choice import PluginChoice, Wish, is_usable, read_wish
from learnforge.plugins.found import installed, locate
from learnforge.plugins.kinds import GROUP, RECIPE
from learnforge.plugins.registry import Plugins

_FOLDER = r"\w[\w .-]*"


def _names_a_folder(instance: object, attribute: Any, value: str) -> None:
    if not re.fullmatch(_FOLDER, value) or len(value.encode()) > _LONGEST:
        words = f"letters, digits, spaces, . - and _, at most {_LONGEST} bytes"
        raise ValueError(f"{attribute.name!r} must be {words}, got {value!r}")


_LONGEST = 100
"""Bytes of a stage's name, and of a run's: file systems take 255."""

_STAGE_KEYS = ("name", "kind", "use", "options")


@frozen
class RunSettings:
    """The table `[run]`.

    Args:
        name: Name of the run, and of its folder under `runs/`; a recipe's file name without its ending
            by default.
        seed: Seed of everything random, from 0.
        device: `auto`, or a device as torch spells it: `cpu`, `cuda`, `cuda:1`, `mps`.
        deterministic: Ask CUDA for reproducible kernels.
    """

    name: str = field(default="run", validator=_names_a_folder)
    seed: int = field(default=0, validator=ge(0))
    device: str = "auto"
    deterministic: bool = False


@frozen(eq=False)
class Recipe:
    """A whole recipe, read and type-checked.

    Args:
        run: Name, seed and device.
        task: The task of every stage that neither has its own nor comes from a stage that has.
        stages: The stages, in order.
        data: The recipe as plain data, after overrides.
        source: What errors call it, such as its file.
    """

    run: RunSettings
    task: TaskSource | None
    stages: tuple[Stage, ...]
    data: Mapping[str, Any]
    source: str = "recipe"

    def task_of(self, stage: Stage) -> TaskSource:
        """Return a stage's task source: its own, or that of the stage which its first input comes from, or
        the recipe's.
        """
        source = _find_task(self.stages, stage, self.task)
        assert source is not None, "parse_recipe refuses a stage without a task"
        return source


def _find_task(stages: Sequence[Stage], stage: Stage, default: TaskSource | None) -> TaskSource | None:
    if stage.task is not None:
        return stage.task
    earlier = stages[: [s.name for s in stages].index(stage.name)]
    reference = next(iter(stage.describe_inputs().values()), "")
    behind = earlier[-1:] if reference is None else [s for s in earlier if s.name == reference]
    return _find_task(stages, behind[0], default) if behind else default


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe, given its path or the name of a built-in one.

    Raises:
        RecipeError: There is no such file or name.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        if path.is_file():
            return path
        raise RecipeError([Problem("", "there is no such file")], str(path))
    built_in = _packaged_recipes()
    if str(name) not in built_in and path.is_dir():
        words = "is a folder; a recipe is a TOML file, and the folder of a run has a run.json"
        raise RecipeError([Problem("", words)], str(path))
    if str(name) not in built_in:
        words = f"no such file or built-in recipe; {nearest(str(name), built_in)}"
        raise RecipeError([Problem("", words)], str(name))
    return built_in[str(name)]


def _packaged_recipes() -> dict[str, Path]:
    """Find the recipes that installed distributions bring, by entry points `recipe.NAME` which name the
    package that `NAME.toml` lies in. Of two with one name, each but learnforge's is `distribution:name`.
    """
    choice = PluginChoice().with_environment(os.environ)
    usable = [p for p in installed() if p.kind == RECIPE and is_usable(p, choice)]
    places = [(p, file.parent / f"{p.method}.toml") for p in usable if (file := locate(p)) is not None]
    whole = [(plugin, recipe) for plugin, recipe in places if recipe.is_file()]
    names = [plugin.method for plugin, _ in whole]
    found = {}
    for p, recipe in whole:
        is_bare = p.distribution == GROUP or names.count(p.method) == 1
        found[p.method if is_bare else f"{p.distribution}:{p.method}"] = recipe
    return found


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a recipe's TOML and apply overrides such as `stage.search.trials=50`; a run without a name gets
    that of the file.

    Raises:
        RecipeError: The file is no TOML, or an override cannot be applied.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # Notepad writes a mark first
    except OSError as error:
        raise RecipeError([Problem("", f"cannot be read: {error.strerror}")], str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        hint = '; text needs quotes, as in use = "kd"' if "Invalid value" in str(error) else ""
        raise RecipeError([Problem("", f"must be valid TOML: {error}{hint}")], str(path)) from error
    if given := tuple(overrides):
        from learnforge.options.tables import override  # most runs need none of it

        problems = [problem for text in given if (problem := override(data, text)) is not None]
        if problems:
            raise RecipeError(problems, "--set")
    run = data.setdefault("run", {})
    if isinstance(run, dict) and re.fullmatch(_FOLDER, Path(path).stem):
        run.setdefault("name", Path(path).stem)
    return data


def plugin_choice(
    data: Mapping[str, Any], more: PluginChoice | None = None, source: str = "recipe"
) -> PluginChoice:
    """Read the table `[plugins]`, overruled by what the command line or the API say.

    Raises:
        RecipeError: The table is wrong.
    """
    problems: list[Problem] = []
    wish = read_wish(data.get("plugins", {}), "`[plugins]`", problems)
    if wish is None or problems:
        raise RecipeError(problems, source)
    more = more or PluginChoice()
    choice = evolve(more, enable=wish.enable, disable=wish.disable, settings=wish.settings, where=wish.where)
    over = Wish(more.where, more.enable, more.disable, more.settings)
    return evolve(choice, overrules=()).overruled(over, *more.overrules)


def parse_recipe(data: Mapping[str, Any], plugins: Plugins, source: str = "recipe") -> Recipe:
    """Turn a recipe's data into objects.

    Raises:
        RecipeError: Anything is wrong; all of it is listed.
    """
    problems: list[Problem] = [
        Problem(key, f"unknown table; {nearest(key, ('run', 'plugins', 'task', 'stage'))}")
        for key in data
        if key not in ("run", "plugins", "task", "stage")
    ]
    run = structure(RunSettings, data.get("run", {}), "run", problems)
    task = _parse_task(data, plugins, problems)
    tables = data.get("stage", [])
    if not isinstance(tables, list) or not tables:
        hint = "; write [[stage]], not [stage]" if isinstance(tables, Mapping) else ""
        problems.append(Problem("stage", f"a recipe needs at least one [[stage]] table{hint}"))
        tables = []
    stages = [_parse_stage(table, i, plugins, problems) for i, table in enumerate(tables)]
    _check_names(tables, problems)
    complete = [stage for stage in stages if stage is not None]
    if len(complete) == len(stages):  # else a stage above may only seem to be missing
        _check_references(complete, plugins.names("model"), problems)
    if "task" not in data:
        words = 'is missing, and there is no [task]; write task = { use = "…" }'
        bare = [stage for stage in complete if _find_task(complete, stage, None) is None]
        problems += [Problem(f"stage.{stage.name}.task", words) for stage in bare]
    if problems or run is None:
        raise RecipeError(problems, source)
    return Recipe(run, task, tuple(complete), data, source)


def _parse_task(data: Mapping[str, Any], plugins: Plugins, problems: list[Problem]) -> TaskSource | None:
    if "task" not in data:
        return None
    table = data["task"]
    if not isinstance(table, Mapping) or not isinstance(table.get("use"), str):
        problems.append(Problem("task", f'must be a table with use = "task name", got {table!r}'))
        return None
    source = plugins.resolve("task", table, "task", problems)
    if source is not None and not isinstance(source, TaskSource):
        problems.append(
            Problem("task.use", f"{table['use']!r} must be a TaskSource, got {type(source).__name__}")
        )
    return source if isinstance(source, TaskSource) else None


def _parse_stage(table: Any, position: int, plugins: Plugins, problems: list[Problem]) -> Stage | None:
    if not isinstance(table, Mapping):
        problems.append(Problem(f"stage[{position}]", f"must be a table, got {table!r}"))
        return None
    kind = table.get("kind")
    path = f"stage.{table.get('name', kind if isinstance(kind, str) else position)}"
    if not isinstance(kind, str):
        problems.append(
            Problem(
                f"{path}.kind", f"must name a kind of stage; {nearest(str(kind), plugins.names('stage'))}"
            )
        )
        return None
    try:
        cls = plugins.load("stage", kind, Stage)
    except PluginError as error:
        problems.append(Problem(f"{path}.kind", str(error)))
        return None
    table, ranges = take_ranges(table, path, problems)
    rest = _known_keys(cls, table, path, problems)
    method = _parse_method(cls, table, path, plugins, problems)
    stage = structure(cls, {"name": table.get("name", kind), **rest}, path, problems, plugins.resolve)
    if stage is None:
        return None
    whole: Stage = evolve(stage, method=method)
    if not ranges:
        return whole
    from learnforge.options.filling import check_ranges  # most recipes need none of it

    return evolve(whole, ranges=check_ranges(whole, ranges, path, problems))


def _known_keys(
    cls: type[Stage], table: Mapping[str, Any], path: str, problems: list[Problem]
) -> dict[str, Any]:
    """Return what is the stage's own in its table; report the keys that nobody knows."""
    own = _own_keys(cls)
    known = own | set(_STAGE_KEYS if cls.method_kind else ("name", "kind"))
    for key in table:
        if key == "method":
            problems.append(Problem(f"{path}.method", "unknown option; did you mean `use`?"))
        elif key not in known and key not in _STAGE_KEYS:
            problems.append(Problem(f"{path}.{key}", f"unknown option; {nearest(str(key), known)}"))
    return {key: value for key, value in table.items() if key in own and key not in _STAGE_KEYS}


def _own_keys(cls: type[Any]) -> set[str]:
    return {option_key(f) for f in attrs.fields(cls) if not f.metadata.get("internal")}


def _parse_method(
    cls: type[Stage], table: Mapping[str, Any], path: str, plugins: Plugins, problems: list[Problem]
) -> Any:
    kind = cls.method_kind
    if kind is None:
        problems += [
            Problem(f"{path}.{key}", "this kind of stage has no method")
            for key in ("use", "options")
            if key in table
        ]
        return None
    if isinstance(table.get("use"), list) and cls.method_of_many is not None:
        given = table.get("options", {})
        if not isinstance(given, Mapping) or "methods" in given:
            words = "must be a table without `methods`, which are in `use`"
            problems.append(Problem(f"{path}.options", f"{words}, got {given!r}"))
            return None
        table = {**table, "use": cls.method_of_many, "options": {"methods": table["use"], **given}}
    if not isinstance(table.get("use"), str):
        problems.append(Problem(f"{path}.use", f"must name a {kind}; {nearest('', plugins.names(kind))}"))
        return None
    try:
        method = plugins.load(kind, table["use"], cls.method_base)
    except PluginError as error:
        problems.append(Problem(f"{path}.use", str(error)))
        return None
    options = table.get("options", {})
    if isinstance(options, Mapping):
        strays = [key for key in options if key in _own_keys(cls) - _own_keys(method)]
        words = "is a key of the stage itself; take it out of `options`"
        problems += [Problem(f"{path}.options.{key}", words) for key in strays]
        options = {key: value for key, value in options.items() if key not in strays}
    return structure(method, options, f"{path}.options", problems, plugins.resolve)


def _check_names(tables: Sequence[Any], problems: list[Problem]) -> None:
    names = [t.get("name", t.get("kind")) for t in tables if isinstance(t, Mapping)]
    for name in sorted({n for n in names if names.count(n) > 1}, key=str):
        problems.append(
            Problem(
                f"stage.{name}.name",
                f"stage names must differ, {names.count(name)} stages are called {name!r}",
            )
        )
    for name in names:
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
            problems.append(
                Problem(f"stage.{name}.name", "must be letters, digits, - and _, since it names a folder")
            )
        elif len(name.encode()) > _LONGEST:
            words = (
                f"must have at most {_LONGEST} bytes, since it names a folder, it has {len(name.encode())}"
            )
            problems.append(Problem(f"stage.{name[:20]}….name", words))


def _check_references(stages: Sequence[Stage], models: Sequence[str], problems: list[Problem]) -> None:
    for position, stage in enumerate(stages):
        earlier = [s.name for s in stages[:position]]
        for role, reference in stage.describe_inputs().items():
            path = f"stage.{stage.name}.{stage.input_path(role)}"
            if reference is None and position == 0:
                problems.append(
                    Problem(
                        path,
                        "is missing, and there is no stage above; name a stage, an artifact's folder or a "
                        "model",
                    )
                )
            if isinstance(reference, str) and reference not in earlier and not Path(reference).is_dir():
                close = difflib.get_close_matches(reference, models, n=1)
                model = f'; for a model, {{ use = "{close[0]}" }}' if close else ""
                stages_words = nearest(reference, earlier) if earlier else "no stage comes before"
                words = f"{reference!r} is no earlier stage and no folder; {stages_words}{model}"
                problems.append(Problem(path, words))
