"""Progress as lines, and as bars in a notebook that a real kernel runs."""

from __future__ import annotations

import nbclient
import nbformat
import pytest

from learnforge import Plugins, PluginWarning, Silence, hookimpl
from learnforge.runner import offered_progress
from learnforge_plugins.progress import Bars, Lines

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
    monkeypatch.setattr("learnforge_plugins.progress.SECONDS_BETWEEN_LINES", 0.0)
    with Lines().track("stage: part", 1) as tracker:
        tracker.advance()
    assert capsys.readouterr().err == "stage: part 1/1, 0 s\n" * 2


def test_a_terminal_gets_bars_and_a_log_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what standard error is; a script shows nothing."""
    plugins = Plugins()
    assert isinstance(offered_progress(plugins, is_command=True), Lines)
    assert isinstance(offered_progress(plugins), Silence)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(offered_progress(plugins, is_command=True), Bars)


def test_another_plugin_may_show_progress() -> None:
    """The first that offers something is taken; one at fault is named, and another asked."""

    class Mine(Silence):
        @hookimpl
        def learnforge_progress(self, is_command: bool) -> Silence | None:
            return self if is_command else None

    class Broken:
        @hookimpl(tryfirst=True)
        def learnforge_progress(self) -> None:
            raise OSError("no terminal")

    plugins, mine = Plugins(), Mine()
    plugins.add(mine)
    plugins.add(Broken())
    with pytest.warns(PluginWarning, match=r"`learnforge_progress` fails with OSError: no terminal"):
        assert offered_progress(plugins, is_command=True) is mine


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
