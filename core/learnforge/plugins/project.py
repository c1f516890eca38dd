"""The project file: what all runs from one folder have in common.

    # learnforge.toml, or the table [tool.learnforge] of pyproject.toml
    [plugins]
    enable = ["hide-rows"]
    files = ["methods"]        # files and folders, seen from the project file

    [plugins.hide-rows]        # a plugin's own options
    rows = 2

    [run]
    folder = "runs"
    workers = 2

It is the file of the current folder or of the nearest above that belongs to the user or to root, and the
user's own code, as a `conftest.py` is.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen
from attrs.validators import ge

from learnforge.errors import Problem, RecipeError, nearest
from learnforge.files import home_path
from learnforge.options.structure import structure
from learnforge.plugins.choice import PluginChoice, Wish, read_wish
from learnforge.plugins.sources import PluginFile

NAMES = ("learnforge.toml", "pyproject.toml")
"""Names of project files; of two in one folder the first counts."""


@frozen
class ProjectRun:
    """The table `[run]` of a project file.

    Args:
        folder: Where runs are kept, each in a folder of its name; `runs` in the current folder by default.
        workers: Trials of a search at a time, from 1.
        cache: Folder for what runs share, such as teacher caches; `.cache` beside the run by default.
    """

    folder: Path = Path("runs")
    workers: int = field(default=1, validator=ge(1))
    cache: Path | None = None


@frozen
class Project:
    """What a project file says.

    Args:
        path: The file; None where there is none.
        wish: Plugins to enable, to disable, and their options.
        files: Plugin files and folders.
        run: Folder, workers and cache of runs.
        said: Keys of `run` that the file holds.
    """

    path: Path | None = None
    wish: Wish = Wish("the project file")
    files: tuple[Path, ...] = ()
    run: ProjectRun = ProjectRun()
    said: tuple[str, ...] = ()

    def below(self, choice: PluginChoice) -> PluginChoice:
        """Return a choice which overrules what the project file says of plugins."""
        beneath = () if self.wish.is_empty else (self.wish,)
        own = [file for file in map(PluginFile.read, self.files) if file not in choice.files]
        return evolve(choice, files=(*own, *choice.files), beneath=(*beneath, *choice.beneath))


def read_project(folder: Path | str = ".") -> Project:
    """Read the project file of a folder, or of the nearest above that has one.

    Raises:
        RecipeError: It is no TOML, or says what it cannot; all of it is listed.
    """
    start = Path(folder).resolve()
    for place in (start, *start.parents):
        for name in NAMES:
            data = _read(place / name)
            if data is not None:
                return _parse(data, place / name)
    return Project()


def _read(file: Path) -> Mapping[str, Any] | None:
    """Return what a project file says; None where there is none, or it is a stranger's."""
    try:
        if not file.is_file() or not _is_trusted(file):
            return None
        data = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError:  # a folder above that must not be looked into
        return None
    except (ValueError, RecursionError) as error:
        raise RecipeError([Problem("", f"must be valid TOML: {error}")], str(file)) from error
    if file.name == NAMES[0]:
        return data
    tools = data.get("tool", {})
    own = tools.get("learnforge") if isinstance(tools, Mapping) else None
    if own is not None and not isinstance(own, Mapping):
        raise RecipeError([Problem("tool.learnforge", f"must be a table, got {own!r}")], str(file))
    return own


def _is_trusted(file: Path) -> bool:
    """Tell whether a file belongs to the user or to root: it names code that runs, and anybody may put one
    into a shared folder above.
    """
    return os.name == "nt" or file.stat().st_uid in (os.getuid(), 0)


def _parse(data: Mapping[str, Any], file: Path) -> Project:
    known = ("plugins", "run")
    problems = [Problem(k, f"unknown table; {nearest(k, known)}") for k in data if k not in known]
    plugins = data.get("plugins", {})
    files = plugins.get("files", []) if isinstance(plugins, Mapping) else []
    if not isinstance(files, list) or not all(isinstance(each, str) for each in files):
        problems.append(Problem("plugins.files", f"must be a list of paths, got {files!r}"))
        files = []
    rest = {k: v for k, v in plugins.items() if k != "files"} if isinstance(plugins, Mapping) else plugins
    wish = read_wish(rest, str(file), problems)
    table = data.get("run", {})
    run = structure(ProjectRun, table, "run", problems)
    if problems or wish is None or run is None:
        raise RecipeError(problems, str(file))
    folder = file.parent / run.folder if "folder" in table else run.folder
    cache = run.cache and file.parent / run.cache
    paths = tuple(file.parent / home_path(each) for each in files)
    run = evolve(run, folder=folder, cache=cache)
    return Project(file, evolve(wish, is_general=True), paths, run, tuple(table))
