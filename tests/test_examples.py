"""Every example runs, and its result is what it says it shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"


def result_of(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


def test_search_and_distill() -> None:
    """A student several times smaller than its teacher learns the digits."""
    metrics = result_of("01_search_and_distill").metrics
    assert metrics["teacher_parameters"] > 3 * metrics["parameters"]
    assert metrics["test_accuracy"] > 0.8


def test_learn_from_five_examples() -> None:
    """Two unseen digits are told apart from five examples each, far above chance."""
    assert result_of("02_learn_from_five_examples") > 0.75


def test_write_a_distiller() -> None:
    """A method of one's own runs like a built-in one."""
    assert result_of("03_write_a_distiller").metrics["test_accuracy"] > 0.7


def test_every_example_is_tested() -> None:
    """No example is left out of this file."""
    tested = Path(__file__).read_text()
    assert all(f'"{example.stem}"' in tested for example in EXAMPLES.glob("*.py"))
