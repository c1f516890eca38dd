"""The report: what it says, that it stands alone, and that plugins add to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from attrs import evolve
from click.testing import CliRunner

import learnforge as lf
from learnforge import PluginChoice
from learnforge.cli.group import cli
from learnforge.report import RunSummary, Section, StageSummary
from learnforge_kit.measured import Assessment, NetworkCosts, OnTest
from learnforge_plugins.reports import figures
from learnforge_plugins.reports.compare import compare_runs
from learnforge_plugins.reports.device import read_profile
from learnforge_plugins.reports.figures import adaptation, confusion, curves, pareto, search_history
from learnforge_plugins.reports.plugin import report_sections
from learnforge_plugins.reports.reading import read_summary
from learnforge_plugins.reports.sections import _VERDICTS, make_sections, stage_columns, stage_row
from learnforge_plugins.reports.write import to_html, to_markdown, write_report
from learnforge_plugins.stages.exported import Agreement, Exported
from learnforge_plugins.stages.measured import Distilled, Trials
from learnforge_plugins.stages.meta.measured import Adaptation
from tests.core.recipes import DISTILL
from tests.plugins.reports.samples import META, SEARCH, TRANSFER, make_search, stage, summary


def judged(test_accuracy: float) -> Assessment:
    """Return how a network does whose accuracy is the same everywhere."""
    return Assessment(
        validation_accuracy=test_accuracy, test_accuracy=test_accuracy, class_accuracy=[], mistakes=[]
    )


def test_the_search_section_shows_its_pareto_set() -> None:
    """Counts, objectives and the Pareto set in order of accuracy."""
    sections = make_sections(summary(stage("search", SEARCH)))
    section = sections[2]
    assert "Designs: 3 evaluated, 1 of them failed, 2 repeated, 4 refused." in section.words
    assert [row[0] for row in section.rows] == ["2", "0"]
    assert "1,234 parameters that gets 87.5% of the test images right" in sections[0].words


def test_the_meta_verdict_gives_intervals() -> None:
    """Few-shot accuracy stands with its confidence interval, and "seen upstream" where that is so."""
    words = make_sections(summary(stage("meta", META)))[0].words
    assert (
        words
        == "From 1 example each it learns 5 new classes to an accuracy of 80.0% ± 1.0, from 20.0% ± 0.4 "
        "before."
    )
    loss = make_sections(summary(stage("meta", META | {"measure": "loss", "ways": 2, "shots": 5})))[0].words
    assert (
        loss == "From 10 examples it learns a new task to a loss of 0.800 ± 0.010, from 0.200 ± 0.004 before."
    )
    seen = make_sections(summary(stage("meta", META | {"seen_upstream": ["digits:4"]})))[0].words
    assert "(test classes were seen upstream)" in seen
    fresh = evolve(stage("meta", META), parts={"settings": {"fresh": True}})
    assert "each the same network, from fresh weights, learns 5" in make_sections(summary(fresh))[0].words
    easy = make_sections(summary(stage("meta", META | {"validation_is_seen": True})))
    assert "so they are easier" in easy[2].words
    assert "so they are easier" not in make_sections(summary(fresh))[2].words


def test_the_distill_verdict_weighs_the_student() -> None:
    """What it learnt from, and its share of the teacher's parameters, multiply-adds and time, be it above
    one.
    """
    metrics = Distilled(
        assessment=judged(0.9),
        costs=NetworkCosts(parameters=500, macs=300, peak_activation_bytes=8, latency_ms=1.25),
        teacher=judged(0.95),
        teacher_parameters=1000,
        teacher_macs=1200,
        teacher_latency_ms=0.5,
        capacity_ratio=2.0,
        accuracy_gap=0.05,
        agreement=0.9,
        assistants=[],
        teacher_forwards={"asked": 1, "computed": 1, "saved": 0.0},
        warnings=[],
        history={},
        baseline=judged(0.875),
    ).as_metrics()
    words = _VERDICTS["distill"](stage("distill", metrics))
    assert words == (
        "It taught a student of 500 parameters on 1,200 images, which gets 90.0% right where its teacher "
        "gets 95.0%; without its teacher the same student gets 87.5%. It has 0.5 times the teacher's "
        "parameters and 0.25 times its multiply-adds, and takes 2.5 times as long for one input in torch."
    )


def test_the_export_verdict_says_what_the_file_gets_right() -> None:
    """Accuracy on these classes, the first few of many, beside the agreement with the network."""
    proof = Agreement(
        file=OnTest(test_accuracy=0.625),
        network_accuracy=0.625,
        agreement=1.0,
        max_difference=0.0,
        mean_difference=0.0,
        relative_difference=0.0,
        images=1000,
        latency_ms=0.5,
        network_latency_ms=1.0,
        latency_64_ms=8.0,
        network_latency_64_ms=9.0,
        is_exact=True,
        is_equal=True,
    )
    found = Exported(proof=proof, bytes=2048, classes=list("abcdefgh"), file="model.pt2", parameters=10)
    words = _VERDICTS["export"](stage("export", found.as_metrics()))
    assert words == (
        "The exported file has 2 KiB and takes 0.50 ms an image on one thread. It gets 62.5% of 1,000 images "
        "of a, b, c, d, e, f and 2 others right, and names the same class as the network for 100.0%."
    )


def test_a_score_that_is_no_accuracy_is_not_called_one() -> None:
    """The table's heading is "score" where a stage is judged by a loss or a return."""
    for measure, heading in (("accuracy", "accuracy"), ("loss", "score"), ("return", "score")):
        run = summary(stage("search", SEARCH), stage("meta", META | {"measure": measure}))
        assert stage_columns(run.stages)[2] == heading
        for both in ([run, summary(stage("search", SEARCH))], [summary(stage("search", SEARCH)), run]):
            assert compare_runs(both)[0].columns[3] == heading


def test_a_transfers_baseline_has_its_name() -> None:
    """Without labels of the new task the baseline knows the labelled task alone, and is called so."""
    baseline = evolve(judged(0.5), validation_accuracy=0.4).as_metrics()
    metrics = TRANSFER | {f"baseline_{name}": value for name, value in baseline.items()}
    metrics |= {"class_accuracy": [], "mistakes": []}
    for given, name in (({}, "from scratch"), ({"baseline_name": "source only"}, "source only")):
        sections = make_sections(summary(stage("transfer", metrics | given)))
        assert f"{name} 50.0%" in sections[0].words
        assert any(row[0] == f"{name}, same budget" for section in sections for row in section.rows)


def test_the_transfer_section_says_what_was_changed_and_what_it_does_badly() -> None:
    """Changes, pairs of classes with other names, and the worst classes with what they are taken for."""
    plain = stage("transfer", TRANSFER)
    carried = evolve(plain, task={**plain.task, "classes": ["a", "b", "c", "d"]})
    words = make_sections(summary(carried))[2].words
    assert words == (
        "shapes: 1,200 train, 30 test images. "
        "Changed for the new task: 1 → 3 channels: first convolution averaged; 5 → 4 classes: new head. "
        "On validation images of the labelled task it gets 95.0%. Classes are paired in their order: "
        "0 - zero = 0. Classes that it does worst on: b 25.0% (taken for d), d 50.0% (taken for b), a 90.0%."
    )


def test_an_unfinished_stage_is_named() -> None:
    """The report can be written while the run goes on."""
    waiting = StageSummary("distill", "distill", {"use": "kd"}, "waiting", 0.0, {}, {})
    assert "Not finished: distill." in make_sections(summary(waiting))[0].words
    assert stage_row(waiting)[:3] == ("distill", "kd", "waiting")


def test_figures_show_the_data() -> None:
    """History follows the best so far, the Pareto set is drawn by cost, bars carry their intervals."""
    history = search_history(Trials.of(SEARCH))
    assert list(history.data[1].y) == [0.5, 0.9]
    front = pareto(Trials.of(SEARCH))
    assert list(front.data[1].x) == [20, 60]
    assert list(adaptation(Adaptation.of(META["test"]), "accuracy").data[0].y) == [0.2, 0.8]
    assert list(adaptation(Adaptation.of(META["test"]), "accuracy").data[0].error_y.array) == [0.004, 0.01]
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
    assert f"learnforge check runs/x {options}. The papers" in section.words
    assert section.words.endswith("learnforge cite runs/x")
    assert ("plugins of lf-track", "2.0") in section.rows
    assert not any("learnforge" in row[0] for row in section.rows)


def test_importance_finds_the_choice_that_decides() -> None:
    """Where one choice alone decides, it explains nearly everything; few trials say nothing."""
    picture = figures.importance(Trials.of(make_search(24)))
    shares = dict(zip(picture.data[0].y, picture.data[0].x, strict=True))
    assert shares["width"] > 0.5
    assert abs(sum(shares.values()) - 1.0) < 1e-6
    assert figures.importance(Trials.of(make_search(6))) is None


def test_parallel_coordinates_have_an_axis_for_each_choice() -> None:
    """Numbers stand as they are, categories by name, what a design lacks as a dash, the objective last."""
    axes = figures.parallel(Trials.of(make_search())).data[0].dimensions
    assert [axis.label for axis in axes] == ["width", "op", "0.kernel", "accuracy"]
    assert list(axes[1].ticktext) == ["a", "b"]
    assert list(axes[2].ticktext) == ["3", "none"]
    assert len(axes[0].values) == 11  # a stopped trial is none of them


def test_costs_are_drawn_where_they_are_known() -> None:
    """One panel for each cost that all trials have, and one for their seconds."""
    picture = figures.costs(Trials.of(make_search()))
    assert [list(trace.x)[3] for trace in picture.data] == [300, 1.0]


def test_minimised_objectives_fall() -> None:
    """The best so far of what shall be small goes down."""
    search = make_search() | {"objectives": ["-parameters"]}
    best = list(search_history(Trials.of(search)).data[-1].y)
    assert best == sorted(best, reverse=True)


def test_a_search_that_goes_on_is_shown() -> None:
    """What an unfinished search has told so far has a section, and so has a search over options."""
    progress = make_search() | {"front": []}
    running = StageSummary("find", "search", {"use": "rl"}, "running", 0.0, {}, {}, progress)
    sections = make_sections(summary(running))
    assert sections[2].title == "find: not finished"
    assert sections[2].rows[0][:2] == ("3", "80.0%")
    tuned = {"options": {"options.alpha": 0.5}, "searcher": "Bayesian", **progress}
    titles = {s.title: s for s in make_sections(summary(stage("search", SEARCH | {"tuned": tuned})))}
    assert titles["search: options by Bayesian"].words.startswith("Chosen: alpha = 0.5. Objectives: accuracy")


def test_a_devices_profile_is_a_section(tmp_path: Path) -> None:
    """A row for each network, a column for each number of images that any was timed with; other files are
    refused.
    """
    file = tmp_path / "profile.json"
    networks = {"a": {"latency_ms": {"1": 0.25, "64": 12.5}}, "b": {"latency_ms": {"8": 1234.5}}}
    found = {"device": "phone", "runtime": "onnxruntime 1", "peak_mebibytes": 40.5, "networks": networks}
    file.write_text(json.dumps(found))
    section = read_profile(file)
    assert section.title == "On the device phone"
    assert section.words.endswith("All in all the script took 40 MiB at its peak.")
    assert section.columns == ("network", "1 image", "8 images", "64 images")
    assert section.rows == (("a", "0.25 ms", "", "12.5 ms"), ("b", "", "1,234 ms", ""))
    file.write_text(json.dumps(found | {"error_percent": 2.5}))
    assert read_profile(file).words.endswith(" As a table of layers it is off by 2.5 % on average.")
    for text in ("{}", "[]", "{", json.dumps(found | {"networks": ["a"]})):
        file.write_text(text)
        with pytest.raises(lf.RunError, match=r"profile.json must be the JSON that a script of"):
            read_profile(file)


def test_the_command_shows_a_profile(tmp_path: Path) -> None:
    """`learnforge report RUN --profile FILE` puts the device's section into both reports."""
    lf.run(DISTILL, tmp_path / "run")
    file = tmp_path / "profile.json"
    found = {"device": "phone", "runtime": "onnxruntime 1", "peak_mebibytes": None}
    file.write_text(json.dumps(found | {"networks": {"net": {"latency_ms": {"1": 0.25}}}}))
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "run"), "--profile", str(file)])
    assert done.exit_code == 0, done.output
    assert "## On the device phone" in (tmp_path / "run" / "report.md").read_text()
    assert "On the device phone" in (tmp_path / "run" / "report.html").read_text()
    other = tmp_path / "pi" / "profile.json"
    other.parent.mkdir()
    pi = {**found, "device": "pi", "networks": {}}
    other.write_text(json.dumps(pi))
    CliRunner().invoke(
        cli, ["report", str(tmp_path / "run"), "--profile", str(other)], catch_exceptions=False
    )
    (tmp_path / "run" / "device-0.json").write_text("{")
    copy = tmp_path / "for" / "you.html"
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "run"), "--to", str(copy)])
    assert done.exit_code == 0, done.output
    assert "On the device phone" in copy.read_text()  # of the profile that the folder keeps
    assert "On the device pi" in copy.read_text()
    assert "device-0.json must be the JSON that a script of" in copy.read_text()
    assert lf.run(DISTILL, tmp_path / "run").state == "finished"
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "run" / "first")])
    assert f"it is the folder of a stage, its run is {tmp_path / 'run'}" in str(done.exception)


def test_pictures_and_paragraphs_are_on_the_page() -> None:
    """Each paragraph is one, and an image stands with its words, which are escaped."""
    section = lf.Section("t", "one\n\ntwo", pictures=[lf.Picture("aGk=", "a < b")], caption="c")
    page = to_html(summary(), [section])
    assert "<p>one</p>\n<p>two</p>" in page
    assert '<img src="data:image/png;base64,aGk=" alt=""><figcaption>a &lt; b</figcaption>' in page
    assert "<p>c</p>" in page
    assert to_markdown(summary(), [section]).endswith("## t\n\none\n\ntwo\n")


@pytest.mark.parametrize("png", ['" onerror="alert()', b"aGk=", "a"])
def test_a_picture_must_be_base64(png: Any) -> None:
    """What would break out of the page is refused where it is made."""
    with pytest.raises(ValueError, match="'png' must be base64 as text"):
        lf.Picture(png, "words")


def test_what_a_run_took_is_a_section() -> None:
    """Seconds, peak memory and designs of the search and of a search over options, where there were any."""
    tuned = {"options": {}, "searcher": "rl", **make_search(), "front": [], "trials": 4, "repeats": 1}
    taken = evolve(stage("search", SEARCH | {"tuned": tuned}), peak_mebibytes=1234.5)
    sections = {s.title: s for s in make_sections(summary(taken, stage("meta", META)))}
    rows = sections["What it took"].rows
    assert rows == (("search", "1.2", "1,234 MiB", "7", "3"), ("meta", "1.2", "", "", ""))
    waiting = StageSummary("distill", "distill", {"use": "kd"}, "waiting", 0.0, {}, {})
    assert "What it took" not in [s.title for s in make_sections(summary(waiting))]


def test_a_network_that_names_one_class_is_told() -> None:
    """In the table of stages and in the verdict: its accuracy is the share of the largest class."""
    constant = summary(stage("search", SEARCH | {"only_class": "b"}))
    assert "The network of 'search' names 'b' for every validation image" in make_sections(constant)[0].words
    assert stage_row(constant.stages[0])[3] == "names 'b' for every image"
    assert "every validation image" not in make_sections(summary(stage("search", SEARCH)))[0].words


def test_a_report_in_markdown_holds_no_html() -> None:
    """Names and words come from recipes and folders of strangers."""
    section = Section("a <script>", "b <img src=x>", columns=("c",), rows=[("<b> | d",)])
    text = to_markdown(summary(stage("search", SEARCH)), [section])
    assert "<" not in text
    assert "a &lt;script&gt;" in text
    assert r"&lt;b&gt; \| d" in text
    assert text.startswith("# x &amp; y\n")


def test_a_stage_of_a_plugins_kind_has_a_section_too() -> None:
    """A verdict, its numbers, its curves and confusions, by the names that built-in stages have."""
    judged = {"test_accuracy": 0.75, "validation_accuracy": 0.8, "confusion": [[3, 1], [1, 3]]}
    history = {"mine": [{"epoch": 1, "loss": 0.5, "accuracy": 0.6}]}
    metrics = {**judged, "kept_channels": 1234, "note": "as asked", "history": history, "masks": [1] * 99}
    own_task = stage("prune", metrics).task
    own = evolve(stage("prune", metrics), method={}, task={**own_task, "classes": ["a", "b"]})
    verdict, _, section, *_ = make_sections(summary(own))
    words = "'prune', of the kind prune, hands on a network that gets 75.0% of the test images right."
    assert verdict.words == words
    assert section.title == "prune: prune"
    assert ("test accuracy", "75.0%") in section.rows
    assert ("kept channels", "1,234") in section.rows
    assert ("note", "as asked") in section.rows
    assert "masks" not in [name for name, _ in section.rows]
    assert section.figures[0].layout.title.text == "Training"
    assert len(section.figures) == 2
    bare = make_sections(summary(evolve(stage("odd", {"history": [1, 2], "count": 3}), method={})))
    assert bare[0].words == "'odd', of the kind odd, is finished."
    assert bare[2].rows == (("count", "3"),)
    assert bare[2].figures == []
