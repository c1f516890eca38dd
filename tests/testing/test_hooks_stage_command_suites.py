"""The suites of hooks-only plugins, kinds of stage and commands: good ones pass, a fault fails its check."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from tests.testing.plugin_files import PRUNE, TRACKER, VETO

from learnforge import PluginChoice, Plugins
from learnforge_testing.hooks import HooksSuite
from learnforge_testing.suite import Suite
from learnforge_testing.suites.command import CommandSuite
from learnforge_testing.suites.stage import StageSuite


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Write a plugin file of its own name."""
    count = iter(range(100))

    def make(text: str) -> Path:
        path = tmp_path / f"plugin{next(count)}.py"
        path.write_text(text)
        return path

    yield make
    for name in [name for name in sys.modules if name.startswith("learnforge_plugin_")]:
        del sys.modules[name]


def failed(suite: type[Suite]) -> list[str]:
    return [outcome.name for outcome in suite.run() if outcome.state == "failed"]


def hooks_suite(path: Path) -> type[Suite]:
    return HooksSuite.of(path.stem, files=(path,))


@pytest.mark.parametrize("text", [TRACKER, VETO], ids=["tracker", "veto"])
def test_good_hooks_pass(write: Callable[[str], Path], text: str) -> None:
    """A tracker and a veto pass, each with the check of what it does to results."""
    outcomes = list(hooks_suite(write(text)).run())
    assert [o.name for o in outcomes if o.state == "failed"] == []
    skipped = "a_run_with_it_repeats" if text is TRACKER else "a_run_with_it_gives_the_same_bits"
    loading = "it_is_not_loaded_unless_enabled"  # a file is loaded because it is named
    assert [o.name for o in outcomes if o.state == "skipped"] == [loading, skipped]


HEAD = "from learnforge import hookimpl\n@hookimpl\n"


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("value = 1", ["it_loads_without_fault"]),
        (HEAD + "def learnforge_epoch_finished(metrics): metrics['none']", ["a_run_with_it_has_no_fault"]),
        (HEAD + "def learnforge_report_sections(run): return [run.nothing]", ["a_run_with_it_has_no_fault"]),
        (
            "import itertools\nwidth = itertools.count(1)\n"
            + HEAD
            + "def learnforge_vet_design(design): return 'no' if next(width) == 3 else None",
            ["a_run_with_it_repeats"],
        ),
    ],
    ids=["idle", "fault", "bad section", "counting"],
)
def test_broken_hooks_fail_their_check(write: Callable[[str], Path], text: str, check: list[str]) -> None:
    """A plugin without a hook, one that raises, one that cannot be shown, one that counts calls: caught."""
    found = failed(hooks_suite(write(text)))
    assert found[0] == check[0]
    assert set(found) <= {*check, "a_run_with_it_gives_the_same_bits"}  # which is strict as well


def test_hooks_that_change_bits_are_caught(write: Callable[[str], Path]) -> None:
    """A listener that reaches into the run changes its bits, which the comparison shows."""
    text = HEAD + (
        "def learnforge_run_started(run):\n"
        "    import attrs\n"
        "    object.__setattr__(run.recipe.stages[0], 'trials', 1)\n"
        "    object.__setattr__(run.recipe.stages[0].retrain, 'epochs', 2)\n"
    )
    assert failed(hooks_suite(write(text))) == ["a_run_with_it_gives_the_same_bits"]


def test_installed_hooks_are_loaded_when_enabled_alone(install) -> None:  # type: ignore[no-untyped-def]
    """An installed plugin is checked by its name, and that it stays out of other runs."""
    install("lf-test-a", {"lf-test-track": "lf_test_a"}, {"lf_test_a": TRACKER})
    assert failed(HooksSuite.of("lf-test-track")) == []


# Stages

DESCRIBED = "docstring_describes_every_option"


def stage_suite(path: Path, **options: object) -> type[Suite]:
    cls = Plugins(PluginChoice(files=(path,))).load("stage", "prune")
    return StageSuite.of(cls, options, files=(path,))


def test_good_stage_passes(write: Callable[[str], Path]) -> None:
    """Magnitude pruning out of a file passes, with its default options and with others."""
    path = write(PRUNE)
    assert failed(stage_suite(path)) == []
    assert failed(stage_suite(path, sparsity=0.9)) == []


@pytest.mark.parametrize(
    ("old", "new", "check"),
    [
        (
            "        sparsity: Share of the weights to remove, in [0, 1).\n",
            "",
            "docstring_describes_every_option",
        ),
        (", validator=[ge(0.0), lt(1.0)]", "", "numbers_have_ranges"),
        ("        network =", "        torch.rand(1)\n        network =", "random_state_is_untouched"),
        ("return evolve(inputs", "return __import__('time').time() and evolve(inputs", None),
        ("metrics={}).with_state(network)", "weights=None)", "artifact_loads_again"),
    ],
)
def test_broken_stages_fail_their_check(
    write: Callable[[str], Path], old: str, new: str, check: str | None
) -> None:
    """A wordless option, one without a range, drawn random numbers, lost weights show where they should."""
    assert old in PRUNE
    found = failed(stage_suite(write(PRUNE.replace(old, new))))
    assert found == ([check] if check else [])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (
            "search",
            {
                "use": "random",
                "space": {"use": "residual", "stages": 1, "blocks": 1, "max_width": 8},
                "trials": 1,
                "train": {"epochs": 1},
                "retrain": {"epochs": 1},
            },
        ),
        ("distill", {"use": "kd", "train": {"epochs": 1}}),
        ("transfer", {"use": "fine-tune", "options": {"head_epochs": 0}, "train": {"epochs": 1}}),
        ("export", {"use": "torch-export"}),
    ],
)
def test_built_in_stages_pass(plugins: Plugins, kind: str, options: dict[str, object]) -> None:
    """learnforge's own kinds of stage keep the same duties."""
    assert failed(StageSuite.of(plugins.load("stage", kind), options)) == []


# Commands


@click.command()
@click.option("--often", default=1, help="How often.")
def greet(often: int) -> None:
    """Say hello."""
    click.echo("hello " * often)


@click.command()
@click.option("--often", default=1)
def wordless(often: int) -> None:
    click.echo("hello " * often)


class Lenient(click.Command):
    """A command that takes options which it does not have."""

    ignore_unknown_options = True


@click.command(cls=Lenient)
@click.argument("rest", nargs=-1)
def lenient(rest: tuple[str, ...]) -> None:
    """Take anything."""


def test_commands_are_held_to_clicks_manners() -> None:
    """A good command passes; no command, one without words, and one that takes anything fail their checks."""
    assert failed(CommandSuite.of(greet)) == []
    assert failed(CommandSuite.of(wordless)) == ["help_tells_what_it_does"]
    assert failed(CommandSuite.of(lenient)) == ["unknown_option_is_refused"]
    assert failed(CommandSuite.of("greet"))[0] == "it_is_a_click_command"
