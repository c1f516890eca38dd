"""The report: what it says, that it stands alone, and that plugins add to it."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import pytest
from attrs import evolve

import learnforge as lf
from learnforge import PluginChoice
from learnforge.report import RunSummary, read_summary
from learnforge.report.figures import adaptation, confusion, curves, pareto, search_history
from learnforge.report.sections import make_sections, stage_row
from learnforge.report.summary import StageSummary
from learnforge.report.write import to_html, to_markdown, write_report
from learnforge.runner import report_sections
from tests.core.recipes import DISTILL

SEARCH = {
    "validation_accuracy": 0.9,
    "test_accuracy": 0.875,
    "parameters": 1234,
    "macs": 5678,
    "latency_ms": 0.5,
    "trials": 3,
    "failed": 1,
    "repeats": 2,
    "refused": 4,
    "objectives": ["accuracy", "-macs"],
    "front": [0, 2],
    "history": [
        {
            "number": 0,
            "state": "evaluated",
            "metrics": {"accuracy": 0.5, "parameters": 10, "macs": 20},
            "seconds": 1.0,
        },
        {"number": 1, "state": "failed", "metrics": {}, "seconds": 1.0},
        {
            "number": 2,
            "state": "evaluated",
            "metrics": {"accuracy": 0.9, "parameters": 30, "macs": 60},
            "seconds": 2.0,
        },
    ],
}
META = {
    "ways": 5,
    "shots": 1,
    "normalisation": "support",
    "seen_upstream": [],
    "test": {
        "episodes": 600,
        "before": 0.2,
        "before_interval": 0.004,
        "after": 0.8,
        "after_interval": 0.01,
        "by_step": [[0.2, 0.004], [0.8, 0.01]],
    },
    "history": {
        "meta": [{"epoch": 15, "loss": 1.0, "accuracy": 0.5}, {"epoch": 30, "loss": 0.5, "accuracy": 0.8}]
    },
}


def summary(*stages: StageSummary) -> RunSummary:
    return RunSummary(Path("runs/x"), "x & y", "finished", 0, "cpu", 2, {"python": "3.11"}, stages)


def stage(kind: str, metrics: dict[str, object]) -> StageSummary:
    return StageSummary(kind, kind, {"use": "method"}, "finished", 1.25, {"classes": ["a", "b"]}, metrics)


def test_the_search_section_shows_its_pareto_set() -> None:
    """Counts, objectives and the Pareto set in order of accuracy."""
    sections = make_sections(summary(stage("search", SEARCH)))
    section = sections[2]
    assert "3 trained, 1 failed, 2 repeated, 4 refused" in section.words
    assert [row[0] for row in section.rows] == ["2", "0"]
    assert "1,234 parameters that gets 87.5% of the test images right" in sections[0].words


def test_the_meta_verdict_gives_intervals() -> None:
    """Few-shot accuracy stands with its confidence interval, and "seen upstream" where that is so."""
    words = make_sections(summary(stage("meta", META)))[0].words
    assert (
        words
        == "From 1 example each it learns 5 new classes to 80.0% ± 1.0 % accuracy, from 20.0% ± 0.4 before."
    )
    seen = make_sections(summary(stage("meta", META | {"seen_upstream": ["digits:4"]})))[0].words
    assert "(test classes were seen upstream)" in seen


def test_an_unfinished_stage_is_named() -> None:
    """The report can be written while the run goes on."""
    waiting = StageSummary("distill", "distill", {"use": "kd"}, "waiting", 0.0, {}, {})
    assert "Not finished: distill." in make_sections(summary(waiting))[0].words
    assert stage_row(waiting)[:3] == ("distill", "kd", "waiting")


def test_figures_show_the_data() -> None:
    """History follows the best so far, the Pareto set is drawn by cost, bars carry their intervals."""
    history = search_history(SEARCH)
    assert list(history.data[1].y) == [0.5, 0.9]
    front = pareto(SEARCH)
    assert list(front.data[1].x) == [20, 60]
    assert list(adaptation(META["test"]).data[0].y) == [0.2, 0.8]
    assert list(adaptation(META["test"]).data[0].error_y.array) == [0.004, 0.01]
    assert [list(row) for row in confusion([[3, 1], [0, 4]], ["a", "b"]).data[0].z] == [[3, 1], [0, 4]]
    assert list(curves(META["history"]).data[0].x) == [15, 30]


def test_the_page_stands_alone_and_escapes() -> None:
    """One file without a link to anywhere; names are escaped; the Markdown has the same tables."""
    run = summary(stage("meta", META))
    sections = make_sections(run)
    page = to_html(run, sections)
    assert "<h1>x &amp; y</h1>" in page
    head = page.split("<script>")[0] + page.split("</script>")[1]
    assert "http" not in head
    assert "<script src" not in page
    text = to_markdown(run, [lf.Section("t", columns=("a", "b"), rows=[("1|2", "3")])])
    assert "| 1\\|2 | 3 |" in text


SECTIONS = """
from learnforge import Section, hookimpl

@hookimpl
def learnforge_report_sections(run):
    return [Section("From a plugin", f"about {run.name}")]
"""


def test_plugins_add_sections(tmp_path: Path) -> None:
    """`learnforge_report_sections` puts a section after the core's; one that fails is named and left out."""
    good, bad = tmp_path / "good_section.py", tmp_path / "bad_section.py"
    good.write_text(SECTIONS)
    bad.write_text(
        SECTIONS.replace('return [Section("From a plugin", f"about {run.name}")]', "raise ValueError('no')")
    )
    run = lf.run(DISTILL, tmp_path / "run", plugins=PluginChoice(files=(good, bad)))
    with pytest.warns(
        lf.PluginWarning, match=r"bad_section.py: `learnforge_report_sections` fails with ValueError: no"
    ):
        sections = report_sections(run)
    write_report(tmp_path / "run", sections)
    assert "## From a plugin\n\nabout two stages" in (tmp_path / "run" / "report.md").read_text()
    assert isinstance(read_summary(tmp_path / "run"), RunSummary)


def test_the_curves_are_plotly_figures() -> None:
    """Sections carry figures that Plotly can draw."""
    sections = make_sections(summary(stage("search", SEARCH)))
    assert all(isinstance(figure, go.Figure) for section in sections for figure in section.figures)


def test_the_report_says_how_to_have_it_again() -> None:
    """The command has what the run was told beside its recipe, and the plugins that took part are listed."""
    plugins = {
        "wishes": [
            {"where": "`[plugins]`", "enable": ["tracker"], "disable": []},
            {"where": "the command line", "enable": ["logger"], "disable": ["searcher.rl"]},
        ],
        "files": [{"name": "mine.py", "path": "/there/mine.py", "sha256": "0" * 64}],
        "loaded": [
            {"name": "distiller.kd", "distribution": "learnforge", "version": "0.1.0"},
            {"name": "tracker", "distribution": "lf-track", "version": "2.0"},
        ],
    }
    section = make_sections(evolve(summary(stage("search", SEARCH)), plugins=plugins))[-1]
    options = "--plugin /there/mine.py --plugin logger --no-plugin searcher.rl"
    assert f"learnforge run runs/x/recipe.toml --run NEW_FOLDER {options}." in section.words
    assert section.words.endswith(f"learnforge check runs/x {options}")
    assert ("plugins of lf-track", "2.0") in section.rows
    assert not any("learnforge" in row[0] for row in section.rows)
