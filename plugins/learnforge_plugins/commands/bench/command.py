"""`learnforge bench`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from learnforge.cli.options import plugin_options
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice

if TYPE_CHECKING:
    from learnforge.plugins.registry import Plugins


Read = Callable[..., Any]
"""Returns a comparison, its entries, and {name: reason} of methods that were left out."""


@click.group("bench", short_help="Compare methods on a benchmark.")
def command() -> None:
    """Compare methods of a kind on a benchmark: every one of them with the same budgets and seeds."""


def _comparison(
    seeds: str,
    kept: str,
    folder: str | None,
    *,
    default_seeds: int = 5,
    workers: str = "Processes; by default one for each core, one on a GPU.",
    final: str = "Judge on the test split: once, when all is chosen.",
    budget: Sequence[Callable[..., Any]] = (),
) -> Callable[[Read], Callable[..., Any]]:
    """Make a command of a function that reads a comparison, its entries, and what was left out of them.

    Adds the options that all comparisons have; the function gets `plugins`, `folder` and its own.

    Args:
        seeds: Help of `--seeds`.
        kept: Help of `--to`: what is kept there.
        folder: Its default under `runs/`; None keeps nothing by default.
        default_seeds: Seeds by default.
        workers: Help of `--workers`.
        final: Help of `--final`.
        budget: Options that stand after the seeds.
    """
    path, default = click.Path(path_type=Path), Path("runs") / folder if folder else None
    kept += "; goes on from them."
    options = (
        click.option("--seeds", type=click.IntRange(2), default=default_seeds, show_default=True, help=seeds),
        *budget,
        click.option("--workers", type=click.IntRange(1), help=workers),
        click.option("--final", "is_final", is_flag=True, help=final),
        click.option("--to", "folder", type=path, default=default, show_default=True, help=kept),
    )

    def decorate(read: Read) -> Callable[..., Any]:
        @wraps(read)
        def run(
            choice: PluginChoice,
            seeds: int,
            workers: int | None,
            is_final: bool,
            folder: Path | None,
            **given: Any,
        ) -> None:
            from learnforge.plugins.registry import Plugins
            from learnforge.runner import offered_progress
            from learnforge_plugins.commands.bench.comparison import compare

            plugins = Plugins(choice)
            comparison, entries, left_out = read(plugins=plugins, folder=folder, **given)
            for name, reason in left_out.items():
                click.echo(f"{name} is left out: {reason}")
            cores = workers or (1 if comparison.device != "cpu" else os.cpu_count() or 1)
            found = compare(
                entries,
                comparison,
                seeds,
                plugins,
                offered_progress(plugins, is_command=True),
                cores,
                is_final,
            )
            report = comparison.report(entries, found, is_final, plugins)
            report.show(comparison.subject)
            if folder is not None:
                again = shlex.join(["learnforge", *sys.argv[1:]])
                report.write(folder, comparison.heading, comparison.command, again)
                comparison.clean()
                click.echo(f"results: {folder / 'results.html'}")

        decorated = plugin_options(run)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def _read_recipe(name: str | None) -> dict[str, Any]:
    from learnforge.recipe import find_recipe, read_recipe

    return read_recipe(find_recipe(name)) if name else {}


def _read_values(words: Mapping[str, str | None]) -> dict[str, Any]:
    """Read what was given for a recipe's keys."""
    from learnforge_kit.description import read_value

    return {key: read_value(key, text) for key, text in words.items() if text is not None}


@command.command("searchers")
@click.argument("searchers", nargs=-1)
@click.option("--table", "table_name", default="nasbench201", show_default=True, help="Tabular benchmark.")
@_comparison(
    "Searches of each searcher.",
    "Keep searches and write results here",
    None,
    default_seeds=20,
    workers="Processes; by default one for each core.",
    final="Look up test accuracies: once, when all is chosen.",
    budget=[
        click.option(
            "--seconds",
            "budgets",
            type=click.FloatRange(0, min_open=True),
            multiple=True,
            help="Budget; may be repeated.",
        )
    ],
)
def searchers_command(
    plugins: Plugins, folder: Path | None, searchers: Sequence[str], table_name: str, budgets: Sequence[float]
) -> Any:
    """Let SEARCHERS run over a table of trained networks, on a simulated clock; all that are installed
    by default.

    A searcher is a name, or a table as in a recipe: '{ use = "evolution", population = 50 }'. A table may
    have a warm start: '{ use = "random", warm_start = { score = "naswot", candidates = 500, keep = 10 } }'.

    Without --final only validation regret is shown, which is what to develop on.
    """
    from learnforge.kinds.table import Table
    from learnforge_plugins.commands.bench.searchers import Searchers, parse_entries

    table = plugins.load("table", table_name, Table)()
    comparison = Searchers(table=table, budgets=sorted(budgets) or [table.budget], folder=folder)
    return comparison, *parse_entries(searchers, table, plugins)


@command.command("distillers")
@click.argument("distillers", nargs=-1)
@click.option("--recipe", help="Take task, teacher, student and training from this recipe's distill stage.")
@click.option("--task", help='Task: a name or a table, \'{ use = "image-folder", root = "photos" }\'.')
@click.option("--teacher", help="Teacher: a model's name or table, or an artifact's folder.")
@click.option("--student", help="Student: a model's name or table.")
@click.option("--train", help="How students are trained, a table: '{ epochs = 20, crop = 4, flip = true }'.")
@click.option("--teacher-train", help="How a teacher that is a model is trained first, a table.")
@_comparison("Students of each method.", "Keep teacher, cache and results here", "bench-distillers")
def distillers_command(
    plugins: Plugins, folder: Path, distillers: Sequence[str], recipe: str | None, **words: str | None
) -> Any:
    """Let DISTILLERS teach the same student, beside a baseline without a teacher; all that are installed
    by default.

    A distiller is a name, or a table as in a recipe: '{ use = "kd", temperature = 2.0 }'. Every method gets
    the same initial weights and batches; what is reported is the last epoch.

    Without --final only validation accuracy is shown, which is what to develop on.
    """
    from learnforge_plugins.commands.bench.distillers import parse_entries, read_comparison

    changes = _read_values(words)
    comparison = read_comparison(_read_recipe(recipe), changes, folder, plugins)
    return comparison, *parse_entries(distillers, comparison, plugins)


@command.command("meta-learners")
@click.argument("learners", nargs=-1)
@click.option("--recipe", help="Take task, network and settings from this recipe's meta stage.")
@click.option("--task", help='Task: a name or a table, \'{ use = "omniglot", root = "data" }\'.')
@click.option("--from", help="Network: a model's name or table, or an artifact's folder.")
@click.option("--stage", help="Settings of the meta stage, a table: '{ iterations = 1000, tasks = 8 }'.")
@_comparison("Networks of each method.", "Keep results here", "bench-meta-learners")
def meta_learners_command(
    plugins: Plugins, folder: Path, learners: Sequence[str], recipe: str | None, **words: str | None
) -> Any:
    """Meta-train a network with each of LEARNERS, on the same episodes; all that are installed by default.

    A learner is a name, or a table as in a recipe, in which `stage` changes settings for it alone:
    '{ use = "protonet", stage = { train_ways = 60 } }'.

    Without --final episodes of the validation split are judged, which is what to develop on.
    """
    from learnforge_plugins.commands.bench.meta_learners import parse_entries, read_comparison

    values = _read_values(words)
    changes = {**values.pop("stage", {}), **values}
    comparison = read_comparison(_read_recipe(recipe), changes, folder, plugins)
    return comparison, *parse_entries(learners, comparison, plugins)


@command.command("transfers")
@click.argument("strategies", nargs=-1)
@click.option("--task", help='New task: a name or a table, \'{ use = "image-folder", root = "photos" }\'.')
@click.option("--from", help="Source: a model's name or table, or an artifact's folder.")
@click.option("--source-task", help="Labelled task that sources are trained on, a table.")
@click.option("--source-train", help="Train the source on it first, a table: '{ epochs = 5 }'.")
@click.option("--train", help="How networks are trained, a table: '{ epochs = 20, crop = 2 }'.")
@click.option("--validator", help="What domain adaptation is developed by, a name or a table.")
@click.option(
    "--labels",
    default="1,5,10,50,all",
    show_default=True,
    help="Labels per class; 0 compares methods of domain adaptation.",
)
@_comparison("Networks of each strategy.", "Keep source and results here", "bench-transfers")
def transfers_command(
    plugins: Plugins, folder: Path, strategies: Sequence[str], labels: str, **words: str | None
) -> Any:
    """Let STRATEGIES carry a network to a task with few labels, beside a training from scratch; all that are
    installed by default.

    A strategy is a name, or a table as in a recipe: '{ use = "fine-tune", head_epochs = 2 }'. All get the
    same labelled images, drawn anew for each seed; what is reported is the last epoch.

    With `--labels 0` nothing of the new task is labelled: methods that adapt a domain stand beside a network
    that knows the source task alone. Without --final nothing is read that needs a label of the test split.
    """
    from learnforge_plugins.commands.bench.transfers import parse_entries, read_comparison

    comparison = read_comparison(_read_values(words), _read_labels(labels), folder, plugins)
    return comparison, *parse_entries(strategies, comparison, plugins)


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
