"""`learnforge bench`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from learnforge.cli.options import plugin_options
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice


@click.group("bench", short_help="Compare methods on a benchmark.")
def command() -> None:
    """Compare methods of a kind on a benchmark: every one of them with the same budgets and seeds."""


@command.command("searchers")
@click.argument("searchers", nargs=-1)
@click.option("--table", "table_name", default="nasbench201", show_default=True, help="Tabular benchmark.")
@click.option(
    "--seeds", type=click.IntRange(2), default=20, show_default=True, help="Searches of each searcher."
)
@click.option(
    "--seconds",
    "budgets",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Budget; may be repeated.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes; by default one for each core.")
@click.option("--final", "is_final", is_flag=True, help="Look up test accuracies: once, when all is chosen.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    help="Keep searches and write results here; goes on from them.",
)
@plugin_options
def searchers_command(
    choice: PluginChoice,
    searchers: Sequence[str],
    table_name: str,
    seeds: int,
    budgets: Sequence[float],
    workers: int | None,
    is_final: bool,
    folder: Path | None,
) -> None:
    """Let SEARCHERS run over a table of trained networks, on a simulated clock; all that are installed
    by default.

    A searcher is a name, or a table as in a recipe: '{ use = "evolution", population = 50 }'. A table may
    have a warm start: '{ use = "random", warm_start = { score = "naswot", candidates = 500, keep = 10 } }'.

    Without --final only validation regret is shown, which is what to develop on.
    """
    from learnforge.kinds.table import Table
    from learnforge.plugins.registry import Plugins
    from learnforge.progress import choose_progress
    from learnforge_plugins.commands.bench.searchers import (
        as_rows,
        compare,
        parse_entries,
        summarise,
        write_results,
    )
    from learnforge_plugins.reports.table import show_rows

    plugins = Plugins(choice)
    table = plugins.load("table", table_name, Table)()
    entries = parse_entries(searchers or plugins.names("searcher"), plugins)
    wanted = sorted(budgets) or [table.budget]
    cores = workers or os.cpu_count() or 1
    found = compare(entries, table, seeds, wanted[-1], plugins, choose_progress(), cores, is_final, folder)
    lines = summarise(entries, found, table, wanted)
    columns, rows = as_rows(lines, table.published() if is_final else ())
    click.echo(
        "mean ± standard deviation over seeds; duplicates are designs that came up again, which cost nothing"
    )
    show_rows(f"{table_name}, {seeds} seeds", columns, rows, wrapped="searcher")
    if folder is not None:
        write_results(folder, entries, found, lines, table, shlex.join(["learnforge", *sys.argv[1:]]))
        click.echo(f"results: {folder / 'results.html'}")


def _comparison(folder: str, seeds: str, kept: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a comparison by training: seeds, workers, whether it is final, and its folder."""
    options = (
        click.option("--seeds", type=click.IntRange(2), default=5, show_default=True, help=seeds),
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Processes; by default one for each core, one on a GPU.",
        ),
        click.option(
            "--final", "is_final", is_flag=True, help="Judge on the test split: once, when all is chosen."
        ),
        click.option(
            "--to",
            "folder",
            type=click.Path(path_type=Path),
            default=Path("runs") / folder,
            show_default=True,
            help=f"{kept}; goes on from them.",
        ),
    )

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@command.command("distillers")
@click.argument("distillers", nargs=-1)
@click.option("--recipe", help="Take task, teacher, student and training from this recipe's distill stage.")
@click.option("--task", help='Task: a name or a table, \'{ use = "image-folder", root = "photos" }\'.')
@click.option("--teacher", help="Teacher: a model's name or table, or an artifact's folder.")
@click.option("--student", help="Student: a model's name or table.")
@click.option("--train", help="How students are trained, a table: '{ epochs = 20, crop = 4, flip = true }'.")
@click.option("--teacher-train", help="How a teacher that is a model is trained first, a table.")
@_comparison("bench-distillers", "Students of each method.", "Keep teacher, cache and results here")
@plugin_options
def distillers_command(
    choice: PluginChoice,
    distillers: Sequence[str],
    recipe: str | None,
    seeds: int,
    workers: int | None,
    is_final: bool,
    folder: Path,
    **words: str | None,
) -> None:
    """Let DISTILLERS teach the same student, beside a baseline without a teacher; all that are installed
    by default.

    A distiller is a name, or a table as in a recipe: '{ use = "kd", temperature = 2.0 }'. Every method gets
    the same initial weights and batches; what is reported is the last epoch.

    Without --final only validation accuracy is shown, which is what to develop on.
    """
    from learnforge.kinds.model import Model
    from learnforge.options.tables import read_value
    from learnforge.plugins.identity import spell
    from learnforge.plugins.registry import Plugins
    from learnforge.progress import choose_progress
    from learnforge.recipe import find_recipe, read_recipe
    from learnforge_plugins.commands.bench.distillers import (
        as_rows,
        check_entries,
        compare,
        describe_setting,
        parse_entries,
        read_setting,
        summarise,
        write_results,
    )
    from learnforge_plugins.commands.bench.published import published_for
    from learnforge_plugins.reports.table import show_rows

    plugins = Plugins(choice)
    changes = {key: read_value(key, text) for key, text in words.items() if text is not None}
    data = read_recipe(find_recipe(recipe)) if recipe else {}
    setting = read_setting(data, changes, folder, plugins)
    entries, left_out = parse_entries(distillers, plugins)
    entries, faults = check_entries(entries, setting, bool(distillers), plugins)
    reasons = {**dict.fromkeys(left_out, "it needs options"), **faults}
    for name, reason in reasons.items():
        click.echo(f"{name} is left out: {reason}")
    cores = workers or (1 if setting.device != "cpu" else os.cpu_count() or 1)
    found = compare(entries, setting, seeds, plugins, choose_progress(), cores, is_final)
    lines = summarise(entries, found)
    stage = setting.stage
    teacher, student = (spell(m) if isinstance(m, Model) else {} for m in (stage.teacher, stage.student))
    rows = as_rows(lines, published_for(spell(setting.task), teacher, student, stage.train))
    about = describe_setting(setting, found, plugins)
    click.echo(about)
    show_rows("distillers", *rows, wrapped="distiller")
    write_results(setting, about, lines, rows, shlex.join(["learnforge", *sys.argv[1:]]))
    click.echo(f"results: {folder / 'results.html'}")


@command.command("meta-learners")
@click.argument("learners", nargs=-1)
@click.option("--recipe", help="Take task, network and settings from this recipe's meta stage.")
@click.option("--task", help='Task: a name or a table, \'{ use = "omniglot", root = "data" }\'.')
@click.option("--from", "origin", help="Network: a model's name or table, or an artifact's folder.")
@click.option("--stage", help="Settings of the meta stage, a table: '{ iterations = 1000, tasks = 8 }'.")
@_comparison("bench-meta-learners", "Networks of each method.", "Keep results here")
@plugin_options
def meta_learners_command(
    choice: PluginChoice,
    learners: Sequence[str],
    recipe: str | None,
    origin: str | None,
    seeds: int,
    workers: int | None,
    is_final: bool,
    folder: Path,
    task: str | None,
    stage: str | None,
) -> None:
    """Meta-train a network with each of LEARNERS, on the same episodes; all that are installed by default.

    A learner is a name, or a table as in a recipe, in which `stage` changes settings for it alone:
    '{ use = "protonet", stage = { train_ways = 60 } }'.

    Without --final episodes of the validation split are judged, which is what to develop on.
    """
    from learnforge.options.tables import read_value
    from learnforge.plugins.registry import Plugins
    from learnforge.progress import choose_progress
    from learnforge.recipe import find_recipe, read_recipe
    from learnforge_plugins.commands.bench.meta_learners import (
        as_rows,
        compare,
        describe,
        parse_entries,
        read_setting,
        write_results,
    )
    from learnforge_plugins.reports.table import show_rows

    plugins = Plugins(choice)
    changes: dict[str, Any] = read_value("stage", stage) if stage else {}
    words = {"task": task, "from": origin}
    changes |= {key: read_value(key, text) for key, text in words.items() if text is not None}
    data = read_recipe(find_recipe(recipe)) if recipe else {}
    setting = read_setting(data, changes, folder, plugins)
    entries, left_out = parse_entries(learners, setting, plugins)
    for name, reason in left_out.items():
        click.echo(f"{name} is left out: {reason}")
    cores = workers or (1 if setting.device != "cpu" else os.cpu_count() or 1)
    found = compare(entries, setting, seeds, plugins, choose_progress(), cores, is_final)
    rows = as_rows(entries, found, setting, is_final)
    about = describe(setting, entries, seeds)
    click.echo(about)
    show_rows("meta-learners", *rows, wrapped="method")
    write_results(setting, about, rows, shlex.join(["learnforge", *sys.argv[1:]]))
    click.echo(f"results: {folder / 'results.html'}")


@command.command("transfers")
@click.argument("strategies", nargs=-1)
@click.option("--task", help='New task: a name or a table, \'{ use = "image-folder", root = "photos" }\'.')
@click.option("--from", "origin", help="Source: a model's name or table, or an artifact's folder.")
@click.option("--source-task", "source_task", help="Labelled task that sources are trained on, a table.")
@click.option(
    "--source-train", "source_train", help="Train the source on it first, a table: '{ epochs = 5 }'."
)
@click.option("--train", help="How networks are trained, a table: '{ epochs = 20, crop = 2 }'.")
@click.option("--validator", help="What domain adaptation is developed by, a name or a table.")
@click.option(
    "--labels",
    "label_words",
    default="1,5,10,50,all",
    show_default=True,
    help="Labels per class; 0 compares methods of domain adaptation.",
)
@_comparison("bench-transfers", "Networks of each strategy.", "Keep source and results here")
@plugin_options
def transfers_command(
    choice: PluginChoice,
    strategies: Sequence[str],
    origin: str | None,
    label_words: str,
    seeds: int,
    workers: int | None,
    is_final: bool,
    folder: Path,
    **words: str | None,
) -> None:
    """Let STRATEGIES carry a network to a task with few labels, beside a training from scratch; all that are
    installed by default.

    A strategy is a name, or a table as in a recipe: '{ use = "fine-tune", head_epochs = 2 }'. All get the
    same labelled images, drawn anew for each seed; what is reported is the last epoch.

    With `--labels 0` nothing of the new task is labelled: methods that adapt a domain stand beside a network
    that knows the source task alone. Without --final nothing is read that needs a label of the test split.
    """
    from learnforge.options.tables import read_value
    from learnforge.plugins.registry import Plugins
    from learnforge.progress import choose_progress
    from learnforge_plugins.commands.bench.transfers import (
        as_rows,
        compare,
        parse_strategies,
        read_setting,
        write_results,
    )
    from learnforge_plugins.reports.table import show_rows

    plugins = Plugins(choice)
    given = {**words, "from": origin}
    changes = {key: read_value(key, text) for key, text in given.items() if text is not None}
    labels = _read_labels(label_words)
    setting = read_setting(changes, labels, folder, plugins)
    entries, left_out = parse_strategies(strategies, setting, labels, plugins)
    for name, reason in left_out.items():
        click.echo(f"{name} is left out: {reason}")
    cores = workers or (1 if setting.device != "cpu" else os.cpu_count() or 1)
    found = compare(entries, labels, setting, seeds, plugins, choose_progress(), cores, is_final)
    rows = as_rows(entries, labels, found, setting.stage.validator is not None)
    show_rows(f"transfers, {seeds} seeds", *rows, wrapped="strategy")
    write_results(setting, entries, labels, found, rows, shlex.join(["learnforge", *sys.argv[1:]]))
    click.echo(f"results: {folder / 'results.html'}")


def _read_labels(words: str) -> list[int | None]:
    """Read `1,5,all`; None stands for all."""
    parts = [part.strip() for part in words.split(",")]
    wrong = [part for part in parts if part != "all" and not part.isdecimal()]
    if wrong:
        raise click.BadParameter(
            f"must be whole numbers or `all`, got {', '.join(wrong)}", param_hint="--labels"
        )
    return [None if part == "all" else int(part) for part in dict.fromkeys(parts)]


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge bench`."""
    return {"bench": command}
