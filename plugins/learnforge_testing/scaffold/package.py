"""Writes a plugin package out of templates."""

from __future__ import annotations

import keyword
import re
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
    "tests/test_$module.py": "test_{sort}.py",
    "src/$package/$module.py": "methods/{kind}.py",
}


def write_package(kind: str, name: str, parent: Path) -> Path:
    """Write a package with a working plugin, its conformance tests, a README and a CI file.

    Args:
        kind: A key of `TEMPLATES`.
        name: Name of the method in recipes: lower-case words joined by `-`.
        parent: Folder in which the package's folder is made.

    Returns:
        The package's folder, `parent / "learnforge-NAME"`.

    Raises:
        PluginError: There is no such kind, the name cannot be used, or the folder exists.
        RunError: The disk refuses.
    """
    if kind not in TEMPLATES:
        raise PluginError(f"there is no kind of plugin {kind!r}; {nearest(kind, TEMPLATES)}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise PluginError(
            f"the name must be lower-case words and digits joined by -, such as my-method, got {name!r}"
        )
    words = _substitutes(kind, name)
    method = _read(f"methods/{_file_of(kind)}.py")
    is_taken = re.search(
        rf"^(from|import|    ) ?.*\b{words['cls']}\b", method.replace("$cls", ""), re.MULTILINE
    )
    if keyword.iskeyword(words["module"]) or keyword.iskeyword(words["cls"]) or is_taken:
        raise PluginError(f"{name!r} means something else in Python or in learnforge; choose another name")
    folder = parent / f"learnforge-{name}"
    if folder.exists():
        raise PluginError(f"{folder} exists; choose another name, or another folder with --to")
    texts = {
        _fill(target, words): _fill(_read(source.format(kind=_file_of(kind), sort=_sort(kind))), words)
        for target, source in _FILES.items()
    }
    try:
        for path, text in texts.items():
            write_text(folder / path, text)
        (folder / words["src"] / "py.typed").touch()
    except OSError as error:
        raise refusal(folder, error) from error
    return folder


def _substitutes(kind: str, name: str) -> dict[str, str]:
    module = name.replace("-", "_")
    core = Version(version("learnforge"))
    text = TEMPLATES[kind]
    return {
        "kind": kind,
        "name": name,
        "distribution": f"learnforge-{name}",
        "package": f"learnforge_{module}",
        "module": module,
        "cls": "".join(word.capitalize() for word in name.split("-")),
        "point": name if kind == "hooks" else f"{kind}.{name}",
        "suite": SUITES[kind],
        "what": text.words,
        "use": Template(text.use).substitute(name=name),
        "core": f">={core.major}.{core.minor},<{core.major}.{core.minor + 1}",
        "src": f"src/learnforge_{module}",
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
