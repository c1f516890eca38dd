"""Every example runs, and its result is what it says it shows."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

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


def test_write_a_space() -> None:
    """A space of one's own, of under 25 lines, is searched within its limits."""
    metrics = result_of("08_write_a_space").metrics
    assert metrics["trials"] == 5
    assert metrics["parameters"] <= 5_000
    assert metrics["test_accuracy"] > 0.8
    text = (EXAMPLES / "08_write_a_space.py").read_text(encoding="utf-8")
    own = text[text.index("@frozen") : text.index("def main")].strip().splitlines()
    assert len(own) < 25


def test_add_a_stage() -> None:
    """A pruning stage runs between distillation and export, and what is exported is pruned."""
    artifacts = result_of("04_add_a_stage").artifacts
    assert list(artifacts) == ["distill", "prune", "export"]
    weights = [t for t in artifacts["export"].weights.values() if t.dim() > 1]
    assert sum(int((t == 0).sum()) for t in weights) == sum(int(0.3 * t.numel()) for t in weights)
    assert artifacts["prune"].metrics["test_accuracy"] > 0.8


def test_add_a_report_section() -> None:
    """The report has the plugin's table, with a line for each stage."""
    section = result_of("05_add_a_report_section")
    assert "| stage | time | share |" in section
    assert [line.split()[1] for line in section.splitlines() if "%" in line] == ["distill", "export"]


def test_add_a_command() -> None:
    """The plugin's command runs as one of learnforge's own."""
    assert re.fullmatch(r"distill  \d+\.weight  [\d,]+\n", result_of("06_add_a_command"))


def test_add_hooks() -> None:
    """A listener hears the hook that a plugin brought."""
    heard = result_of("07_add_hooks")
    assert list(heard) == ["distill"]
    assert 1 / 3 < heard["distill"] <= 1


@pytest.mark.slow
def test_bridge_a_gap() -> None:
    """A student behind two assistants learns, as one without does; each has its accuracies."""
    found = result_of("09_bridge_a_gap")
    assert list(found) == ["labels alone", "no assistant", "two assistants"]
    assert all(len(values) == 2 and min(values) > 0.5 for values in found.values())
    assert found["two assistants"] != found["no assistant"]


def test_every_example_is_tested() -> None:
    """No example is left out of this file."""
    tested = Path(__file__).read_text()
    assert all(f'"{example.stem}"' in tested for example in EXAMPLES.glob("*.py"))


@pytest.mark.slow
def test_teach_and_export() -> None:
    """The exported file tells two unseen digits apart, far above chance."""
    assert result_of("10_teach_and_export") > 0.75


@pytest.mark.slow
def test_adapt_a_policy() -> None:
    """One step leads the policy a good way to its goal."""
    before, after = result_of("11_adapt_a_policy")
    assert after > before + 5
