"""What strangers' methods are written with: public names alone, and not many lines."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

import learnforge
import learnforge_kit
from tests.test_house import lines_of_code

FILES = sorted((Path(__file__).parent / "methods" / "src" / "outside_methods").glob("[a-z]*.py"))
PUBLIC = {"learnforge": learnforge, "learnforge_kit": learnforge_kit}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_only_public_names_are_used(file: Path) -> None:
    """Imports are from the two facades, whose stubs name what is offered; nothing of theirs is private."""
    tree = ast.parse(file.read_text("utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PUBLIC:
            assert node.module in PUBLIC, f"{file.name}:{node.lineno} imports from {node.module}"
            names = {alias.name for alias in node.names}
            assert names <= set(PUBLIC[node.module].__all__)
            imported |= names
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("learnforge") for alias in node.names)
    assert imported


def test_they_are_short() -> None:
    """Half of them have at most 80 lines of code, and none more than a hundred."""
    counts = {file.name: lines_of_code(file) for file in FILES}
    assert len(counts) > 12
    assert statistics.median(counts.values()) <= 80
    assert max(counts.values()) <= 100, counts
