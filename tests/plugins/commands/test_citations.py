"""Citations: entries of several lines, links, authors that are not all named, and BibTeX."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from click.testing import CliRunner

import learnforge as lf
from learnforge.cli.group import cli
from learnforge_plugins.commands.citations import Citation, read_citations, write_bibtex

DOC = """Some method.

Reference:
    Finn, Abbeel & Levine, Model-agnostic meta-learning for fast adaptation of deep networks, 2017.
    arXiv:1703.03400 (section 3.2, algorithm 3)
    Howard et al., Searching for MobileNetV3, 2019. arXiv:1905.02244
    PyTorch documentation, torch.export. https://docs.pytorch.org/docs/stable/export.html
    Akiba, Sano, Yanase, Ohta & Koyama, Optuna: a next-generation hyperparameter optimization framework, 2019.
    doi:10.1145/3292500.3330701
    Wightman, PyTorch image models, 2019. https://github.com/huggingface/pytorch-image-models
    Rumelhart, Hinton & Williams, Learning representations by back-propagating errors, 1986.
Differs:
    Someone, Else, 2020. arXiv:0000.00000
"""


def test_entries_are_read() -> None:
    """Authors, title, year and link of each; what has no year is no paper, and other parts are left alone."""
    found = list(read_citations(DOC))
    assert found == [
        Citation(
            ("Finn", "Abbeel", "Levine"),
            "Model-agnostic meta-learning for fast adaptation of deep networks",
            2017,
            "arXiv:1703.03400",
        ),
        Citation(("Howard", "others"), "Searching for MobileNetV3", 2019, "arXiv:1905.02244"),
        Citation(
            ("Akiba", "Sano", "Yanase", "Ohta", "Koyama"),
            "Optuna: a next-generation hyperparameter optimization framework",
            2019,
            "doi:10.1145/3292500.3330701",
        ),
        Citation(
            ("Wightman",),
            "PyTorch image models",
            2019,
            "https://github.com/huggingface/pytorch-image-models",
        ),
        Citation(
            ("Rumelhart", "Hinton", "Williams"),
            "Learning representations by back-propagating errors",
            1986,
        ),
    ]
    assert list(read_citations("no references")) == []


def test_bibtex_has_each_paper_once() -> None:
    """Sorted by key; of two entries the one with a link and more authors."""
    bare = "Reference:\n    Finn, Abbeel & Levine, Model-agnostic meta-learning, 2017.\n"
    few = "Reference:\n    Finn et al., Model-agnostic meta-learning, 2017. arXiv:1703.03400\n"
    text = write_bibtex([bare, DOC, few, DOC])
    assert "author = {Finn and Abbeel and Levine}" in text
    assert text.count("@misc{finn2017modelagnostic,") == 1
    assert "eprint = {1703.03400},\n  archivePrefix = {arXiv}" in text
    assert "author = {Howard and others}" in text
    assert "doi = {10.1145/3292500.3330701}" in text
    keys = [line for line in text.splitlines() if line.startswith("@misc")]
    assert keys == sorted(keys)
    assert write_bibtex([]) == ""


FILES = sorted(
    file
    for file in Path(lf.__file__).parents[2].glob("plugins/learnforge_plugins/*/*.py")
    if "arXiv:" in file.read_text("utf-8").partition('"""\n')[0]
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_papers_of_the_built_in_methods_are_read(file: Path) -> None:
    """Every file that names a paper of arXiv under `Reference:` is read with its link."""
    doc = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    part = doc.partition("Reference:")[2].partition("\nDiffers:")[0].partition("\nMeasured:")[0]
    links = [citation.link for citation in read_citations(doc)]
    named = [word.strip(".,;()") for word in part.split() if word.startswith("arXiv:")]
    assert [link for link in links if link.startswith("arXiv:")] == named
    assert all(len(citation.title) > 10 or ":" not in citation.title for citation in read_citations(doc))


def test_the_command_cites_a_runs_methods(tmp_path: Path) -> None:
    """Those of every plugin that the run loaded."""
    digits = lf.load_task("digits", classes=[0, 1], labels_per_class=10)
    network = lf.load_method("model.conv4")(width=4, blocks=2)
    lf.transfer(network, digits, train={"epochs": 1}, baseline=False, run=tmp_path / "run")
    done = CliRunner().invoke(cli, ["cite", str(tmp_path / "run")], catch_exceptions=False)
    assert "@misc{howard2018universal," in done.output
