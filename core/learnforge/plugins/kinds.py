"""The one table of the kinds of plugins."""

from __future__ import annotations

from attrs import frozen

GROUP = "learnforge"
"""Name of the entry-point group, of the pluggy project, and of this distribution."""


@frozen
class Kind:
    """A kind of plugin.

    Args:
        name: The part of an entry point's name before its dot.
        base: Name of the abstract class in `learnforge` that its methods derive from; "" where there is none.
        words: What one is called in prose.
        use: What uses one, with `$name` for its name.
    """

    name: str
    base: str
    words: str
    use: str

    @property
    def module(self) -> str:
        """Name of the modules of this kind: of its suite, its template and its abstract class."""
        return self.name.replace("-", "_")

    @property
    def hook(self) -> str:
        """Name of the hook that collects what plugins bring of this kind."""
        return hook_of(self.name)


def hook_of(kind: str) -> str:
    """Return the name of the hook that collects what plugins bring of a kind, one of a plugin's own too."""
    return f"{GROUP}_{kind.replace('-', '_')}s"


def _in_stage(kind: str) -> str:
    return f'a stage: `kind = "{kind}"`, `use = "$name"`'


KINDS = {
    kind.name: kind
    for kind in (
        Kind("task", "TaskSource", "task", 'a recipe: `[task]`, `use = "$name"`'),
        Kind("form", "Form", "form of tasks", 'a task of yours: `TaskInfo(form = "$name")`'),
        Kind("space", "Space", "search space", 'a search stage: `space = { use = "$name" }`'),
        Kind("model", "Model", "model", 'a stage: `student = { use = "$name" }`'),
        Kind("searcher", "Searcher", "searcher", _in_stage("search")),
        Kind("evaluator", "Evaluator", "evaluator", 'a search stage: `evaluator = { use = "$name" }`'),
        Kind("distiller", "Distiller", "distiller", _in_stage("distill")),
        Kind("transfer", "Transfer", "transfer strategy", _in_stage("transfer")),
        Kind("validator", "Validator", "validator", 'a transfer stage: `validator = { use = "$name" }`'),
        Kind("meta-learner", "MetaLearner", "meta-learner", _in_stage("meta")),
        Kind("optimizer", "Optimizer", "optimizer", 'a stage: `train = { optimizer = { use = "$name" } }`'),
        Kind(
            "change", "Change", "change", "a method or stage of yours: `apply_change(network, change, task)`"
        ),
        Kind("exporter", "Exporter", "exporter", _in_stage("export")),
        Kind("executor", "Executor", "executor", 'a search stage: `executor = { use = "$name" }`'),
        Kind("score", "Score", "zero-cost score", 'a search stage: `scores = ["$name"]`'),
        Kind("cost", "CostMeter", "cost", 'a search stage: `costs = ["$name"]`, `limits = { $name = 100 }`'),
        Kind(
            "table", "Table", "tabular benchmark", "a comparison: `learnforge bench searchers --table $name`"
        ),
        Kind("stage", "Stage", "kind of stage", 'a recipe: `kind = "$name"` in a `[[stage]]` table'),
        Kind("tuner", "Tuner", "tuner", "the runner, for stages with ranges in the place of options"),
        Kind("command", "", "subcommand", "the command line: `learnforge $name`"),
    )
}
"""What plugins bring, by the part of an entry point's name before its dot. A plugin may add a kind."""

HOOKS = Kind("hooks", "", "hooks-only plugin", 'a recipe: `[plugins]`, `enable = ["$name"]`')
"""A plugin without a dot in its name, which brings no method."""

RECIPE = "recipe"
"""Kind of entry points that name a package with `NAME.toml` in it: data, which no hook collects."""
