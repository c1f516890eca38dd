"""Progress as lines, and as bars in a notebook that a real kernel runs."""

from __future__ import annotations

import nbclient
import nbformat
import pytest

from learnforge.progress import Bars, Lines, choose_progress

CELL = """
import learnforge as lf
digits = lf.load_task("digits", classes=[0, 1, 2], labels_per_class=20)
model = lf.load_method("model.conv4")(width=4, blocks=2)
made = lf.transfer(model, digits, train={"epochs": 2}, baseline=False)
"""


def test_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain progress prints its last state once, and in between only every few seconds."""
    with Lines().track("stage: part", 3, 1) as tracker:
        tracker.advance("loss 1")
        tracker.advance()
    assert capsys.readouterr().err == "stage: part 3/3, 0 s, loss 1\n"
    monkeypatch.setattr("learnforge.progress.SECONDS_BETWEEN_LINES", 0.0)
    with Lines().track("stage: part", 1) as tracker:
        tracker.advance()
    assert capsys.readouterr().err == "stage: part 1/1, 0 s\n" * 2


def test_a_terminal_gets_bars_and_a_log_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what standard error is."""
    assert isinstance(choose_progress(), Lines)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(choose_progress(), Bars)


@pytest.mark.slow
def test_a_notebook_shows_bars_and_tables() -> None:
    """A call of the API draws its progress below the cell, and leaves it full; an artifact is a table."""
    cells = [nbformat.v4.new_code_cell(text) for text in (CELL, "made")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    (shown,) = [o for o in notebook.cells[0].outputs if o.output_type == "display_data"]
    assert '<progress value="2" max="2"></progress>' in shown.data["text/html"]
    assert "2/2" in shown.data["text/html"]
    (table,) = notebook.cells[1].outputs
    assert "<th>made by</th><td>transfer fine-tune</td>" in table.data["text/html"]
