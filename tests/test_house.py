"""The house: how large the core is, what it imports, and that what methods use is public."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import learnforge as lf
import learnforge_kit as kit
import learnforge_testing as testing
from tests.core.recipes import DISTILL

ROOT = Path(__file__).parents[1]
CORE = ROOT / "core" / "learnforge"
PACKAGES = [
    CORE,
    *(ROOT / "plugins" / name for name in ("learnforge_kit", "learnforge_plugins", "learnforge_testing")),
]
FILES = sorted(file for package in PACKAGES for file in package.rglob("*.py"))
METHODS = sorted(
    file
    for file in (ROOT / "plugins" / "learnforge_plugins").glob("*/*.py")
    if file.name != "__init__.py"
    and file.parent.name not in ("commands", "recipes", "reports", "scripts", "stages")
)


def docstrings(tree: ast.Module) -> Iterator[ast.Expr]:
    """Yield the docstrings of a module and all that it defines."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            expression = node.body[0]
            assert isinstance(expression, ast.Expr)
            yield expression


def lines_of_code(file: Path) -> int:
    """Count a file's lines without blanks, comments and docstrings."""
    text = file.read_text(encoding="utf-8")
    words = {n for d in docstrings(ast.parse(text)) for n in range(d.lineno, (d.end_lineno or d.lineno) + 1)}
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for n, line in lines if n not in words and line.strip() and not line.strip().startswith("#"))


def test_the_core_is_small() -> None:
    """At most 5,000 lines of code, no file above 350 lines."""
    files = sorted(CORE.rglob("*.py"))
    assert sum(map(lines_of_code, files)) <= 5000
    assert [file.name for file in files if len(file.read_text("utf-8").splitlines()) > 350] == []


def test_no_package_is_crowded() -> None:
    """At most twenty loose files in any package."""
    folders = {file.parent for file in FILES}
    assert [folder for folder in folders if len(list(folder.glob("*.py"))) > 20] == []


def test_the_core_knows_nothing_of_what_is_built_on_it() -> None:
    """It names no package above it: neither in an import, nor in a text that could be one."""
    named = {
        file.name: found
        for file in [*CORE.rglob("*.py"), *CORE.rglob("*.pyi")]
        if (found := re.findall(r"learnforge_(?:kit|plugins|testing)\b", file.read_text("utf-8")))
    }
    assert named == {}


@pytest.mark.parametrize("file", METHODS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_methods_use_public_names(file: Path) -> None:
    """What a built-in method imports of learnforge, a stranger's method can import too."""
    imports = [
        node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    used = {
        node.module: [a.name for a in node.names]
        for node in imports
        if (node.module or "").startswith("learnforge")
    }
    assert set(used) <= {"learnforge", "learnforge_kit"}
    assert set(used.get("learnforge", ())) <= set(lf.__all__)
    assert set(used.get("learnforge_kit", ())) <= set(kit.__all__)


@pytest.mark.parametrize("package", [lf, kit, testing], ids=lambda package: package.__name__)
def test_public_names_are_those_of_the_stubs(package: ModuleType) -> None:
    """Each name stands once, in the stub, and can be had."""
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text("utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    offered = [alias.asname or alias.name for node in imports for alias in node.names]
    assert len(offered) > 10
    assert sorted(offered) == sorted(set(offered)) == sorted(set(package.__all__) - {"__version__"})
    assert [name for name in offered if getattr(package, name, None) is None] == []


@pytest.mark.parametrize("kind", ["distill", "transfer", "meta"])
def test_a_recipe_without_a_search_imports_little(kind: str, tmp_path: Path) -> None:
    """Running it imports at most 6,000 lines of the core, the kit and the stages, and no Optuna."""
    script = f"""
import json, sys
import learnforge as lf
lf.run({recipe(kind)!r})
own = [m for n, m in sys.modules.items() if n.split(".")[0] in ("learnforge", "learnforge_kit")
       or n.startswith("learnforge_plugins.stages")]
print(json.dumps(["optuna" in sys.modules, [m.__file__ for m in own if getattr(m, "__file__", None)]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path
    )
    has_optuna, files = json.loads(done.stdout.splitlines()[-1])
    assert not has_optuna
    assert 1000 < sum(lines_of_code(Path(file)) for file in files) <= 6000


def recipe(kind: str) -> dict[str, object]:
    """Return a recipe of one stage that takes no time."""
    distill, transfer = DISTILL["stage"]
    network = {"use": "conv4", "width": 4, "blocks": 1}
    stages = {
        "distill": {**distill, "train": {"epochs": 0}},
        "transfer": {**transfer, "from": network, "options": {"head_epochs": 0}, "train": {"epochs": 0}},
        "meta": {
            "kind": "meta",
            "use": "maml",
            "from": network,
            "task": {"use": "digits", "classes": [0, 1, 2], "test_classes": [4, 7]},
            "episodes": {"ways": 2, "shots": 1, "queries": 2},
            "iterations": 0,
            "engine": "loop",
            "validation_episodes": 0,
            "test_episodes": 400,
        },
    }
    return {**DISTILL, "stage": [stages[kind]]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_docstrings_are_wrapped(file: Path) -> None:
    """No paragraph of a docstring ends in a line of one word, and none breaks a line in its middle."""
    for node in docstrings(ast.parse(file.read_text("utf-8"))):
        assert isinstance(node.value, ast.Constant)
        for paragraph in prose(str(node.value.value)):
            *full, last = paragraph
            assert not full or len(last.split()) > 1, f"{file.name}:{node.lineno} ends in {last!r}"
            broken = [line for line, after in zip(full, paragraph[1:], strict=True) if is_short(line, after)]
            assert broken == [], f"{file.name}:{node.lineno} breaks after {broken[0]!r}"


def prose(text: str) -> Iterator[list[str]]:
    """Yield the paragraphs that stand at a docstring's own indentation, each as its lines."""
    first, _, rest = text.partition("\n")
    margin = min((len(line) - len(line.lstrip()) for line in rest.splitlines() if line.strip()), default=0)
    paragraph: list[str] = []
    for line in [" " * margin + first, *rest.splitlines(), ""]:
        is_prose = line.strip() and len(line) - len(line.lstrip()) == margin
        is_item = re.match(r"\s*([-*>│├└]|\w+:$|\d+\. )", line) is not None
        if paragraph and (not is_prose or is_item):
            yield paragraph
            paragraph = []
        if is_prose and not is_item:
            paragraph.append(line)


def is_short(line: str, after: str) -> bool:
    """Tell whether a line was broken well before its end though the next word would have fitted."""
    return len(line) + 1 + len(after.split()[0]) <= 84
