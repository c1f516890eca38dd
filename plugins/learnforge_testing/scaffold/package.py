"""Writes a plugin package out of templates."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from string import Template

from packaging.version import Version

from learnforge.errors import PluginError, nearest
from learnforge.files import refusal, write_text
from learnforge.plugins.kinds import HOOKS, KINDS
from learnforge_testing.conformance import SUITES

TEMPLATES = {kind.name: kind for kind in (*KINDS.values(), HOOKS) if kind.name in SUITES}
"""Everything that can be scaffolded: every kind of plugin, and `hooks` for those that bring no method."""

_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    ".gitignore": "gitignore",
    ".github/workflows/tests.yml": "tests.yml",
    "src/$package/__init__.py": "init.py",
}
"""What a package has once."""

_FILES_OF_KIND = {"tests/test_$module.py": "test_{sort}.py", "src/$package/$module.py": "methods/{kind}.py"}
"""What it has for each kind of plugin in it."""


def write_package(kind: str, name: str, parent: Path) -> Path:
    """Write a package with a working plugin, its conformance tests, a README and a CI file.

    Args:
        kind: A key of `TEMPLATES`, or several joined by commas, such as `form,model`: a package with a plugin
            of each, all of one name.
        name: Name of the method in recipes: lower-case words joined by `-`.
        parent: Folder in which the package's folder is made.

    Returns:
        The package's folder, `parent / "learnforge-NAME"`.

    Raises:
        PluginError: There is no such kind, the name cannot be used, or the folder exists.
        RunError: The disk refuses.
    """
    kinds = kind.split(",")
    unknown = [own for own in kinds if own not in TEMPLATES]
    if unknown:
        raise PluginError(f"there is no kind of plugin {unknown[0]!r}; {nearest(unknown[0], TEMPLATES)}")
    if len(set(kinds)) < len(kinds):
        raise PluginError(f"a package has one plugin of a kind and a name, got {kind!r}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise PluginError(
            f"the name must be lower-case words and digits joined by -, such as my-method, got {name!r}"
        )
    words = {own: _substitutes(own, name, len(kinds) > 1) for own in kinds}
    if any(_is_taken(own, words[own]) for own in kinds):
        raise PluginError(f"{name!r} means something else in Python or in learnforge; choose another name")
    folder = parent / f"learnforge-{name}"
    if folder.exists():
        raise PluginError(f"{folder} exists; choose another name, or another folder with --to")
    whole = _together(list(words.values()))
    texts = {_fill(target, whole): _fill(_read(source), whole) for target, source in _FILES.items()}
    for own in kinds:
        sources = {"kind": _file_of(own), "sort": _sort(own)}
        texts |= {
            _fill(target, words[own]): _fill(_read(source.format(**sources)), words[own])
            for target, source in _FILES_OF_KIND.items()
        }
    try:
        for path, text in texts.items():
            write_text(folder / path, text)
        (folder / whole["src"] / "py.typed").touch()
    except OSError as error:
        raise refusal(folder, error) from error
    return folder


def point_of(kind: str, name: str) -> str:
    """Return the name of an entry point."""
    return name if kind == "hooks" else f"{kind}.{name}"


def _is_taken(kind: str, words: dict[str, str]) -> bool:
    """Tell whether the names of module or class stand for something else already."""
    method = _read(f"methods/{_file_of(kind)}.py").replace("$cls", "")
    has_meaning = re.search(rf"^(from|import|    ) ?.*\b{words['cls']}\b", method, re.MULTILINE)
    return keyword.iskeyword(words["module"]) or keyword.iskeyword(words["cls"]) or has_meaning is not None


def _substitutes(kind: str, name: str, is_one_of_many: bool) -> dict[str, str]:
    module = name.replace("-", "_")
    core = Version(version("learnforge"))
    text = TEMPLATES[kind]
    return {
        "kind": kind,
        "name": name,
        "distribution": f"learnforge-{name}",
        "package": f"learnforge_{module}",
        "module": _file_of(kind) if is_one_of_many else module,
        "cls": "".join(word.capitalize() for word in name.split("-")),
        "point": point_of(kind, name),
        "suite": SUITES[kind],
        "what": text.words,
        "use": Template(text.use).substitute(name=name),
        "core": f">={core.major}.{core.minor},<{core.major}.{core.minor + 1}",
        "src": f"src/learnforge_{module}",
    }


def _together(plugins: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return what fills the files that a package has once."""
    first = plugins[0]
    return {
        **first,
        "what": " and ".join(own["what"] for own in plugins),
        "points": "\n".join(f'"{own["point"]}" = "{own["package"]}.{own["module"]}"' for own in plugins),
        "uses": "\n".join(f"- `{own['point']}` in {own['use']}" for own in plugins),
        "listed": "\n".join(f"    learnforge plugins {own['point']}" for own in plugins),
        "methods": ", ".join(f"`{own['src']}/{own['module']}.py`" for own in plugins),
        "tests": ", ".join(f"`tests/test_{own['module']}.py`" for own in plugins),
    }


def _fill(text: str, words: dict[str, str]) -> str:
    return Template(text).substitute(words)


def _read(name: str) -> str:
    file = resources.files("learnforge_testing.scaffold") / "templates" / f"{name}.tmpl"
    return file.read_text(encoding="utf-8")


def _file_of(kind: str) -> str:
    return kind.replace("-", "_")


def _sort(kind: str) -> str:
    """Say which template the tests are written from: methods are classes, two other kinds are not."""
    return kind if kind in ("hooks", "command") else "method"
