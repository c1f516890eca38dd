"""Writes the reference of the Python names: all of `__all__` of the three packages, at one place each."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import GenericAlias, ModuleType
from typing import Any

from attrs import frozen

import learnforge
import learnforge_kit
import learnforge_testing
from learnforge.plugins.kinds import KINDS

PACKAGES = (learnforge, learnforge_kit, learnforge_testing)


@frozen
class Group:
    """Names that are shown together.

    Args:
        page: The page that they are on.
        title: Their heading.
        homes: Modules that the names come from; all of a package below `kinds.` where one ends with a dot.
    """

    page: str
    title: str
    homes: tuple[str, ...]


BASES = {kind.base for kind in KINDS.values()}
"""The abstract classes of the kinds, which come before what they take and give."""

GROUPS = {
    "learnforge": (
        Group("python-calls", "Calls", ("api",)),
        Group("python-calls", "Artifacts and networks", ("artifact", "spec")),
        Group("python-calls", "Runs and reports", ("record", "runlog", "report")),
        Group("python-calls", "Errors and warnings", ("errors",)),
        Group("python-kinds", "Tasks", ("kinds.task",)),
        Group("python-kinds", "Spaces", ("kinds.space",)),
        Group("python-kinds", "Models", ("kinds.model",)),
        Group("python-kinds", "Searchers", ("kinds.searcher",)),
        Group("python-kinds", "Evaluators", ("kinds.evaluator",)),
        Group("python-kinds", "Scores", ("kinds.score",)),
        Group("python-kinds", "Costs", ("kinds.cost",)),
        Group("python-kinds", "Tables", ("kinds.table",)),
        Group("python-kinds", "Executors", ("kinds.executor",)),
        Group("python-kinds", "Distillers", ("kinds.distiller",)),
        Group("python-kinds", "Transfer strategies", ("kinds.transfer",)),
        Group("python-kinds", "Validators", ("kinds.validator",)),
        Group("python-kinds", "Meta-learners", ("kinds.meta_learner",)),
        Group("python-kinds", "Optimizers", ("kinds.optimizer",)),
        Group("python-kinds", "Engines and episodes", ("kinds.seen.engine", "kinds.seen.episodes")),
        Group("python-kinds", "Changes of networks", ("kinds.change", "changes", "rebuilding")),
        Group("python-kinds", "Exporters", ("kinds.exporter",)),
        Group("python-kinds", "Forms of tasks", ("kinds.form",)),
        Group("python-kinds", "Stages and tuners", ("kinds.stage", "kinds.tuner")),
        Group("python-kinds", "What methods see of a network", ("kinds.seen.network",)),
        Group("python-kinds", "Other kinds", ("kinds.",)),
        Group("python-core", "Hooks and plugins", ("hookspecs", "plugins.")),
        Group("python-core", "Options", ("options.",)),
        Group("python-core", "Context", ("context",)),
        Group("python-core", "Random numbers", ("randomness",)),
        Group("python-core", "Files", ("files",)),
        Group("python-core", "Others", ("",)),
    ),
    "learnforge_kit": (
        Group("python-kit", "Training", ("training.",)),
        Group("python-kit", "Networks", ("networks.",)),
        Group("python-kit", "Data", ("data.",)),
        Group("python-kit", "Costs", ("costs.",)),
        Group("python-kit", "Samplers and designs", ("search.",)),
        Group("python-kit", "Engines for meta-learning", ("engines.",)),
        Group("python-kit", "Prediction", ("prediction",)),
        Group("python-kit", "Random numbers", ("drawing",)),
        Group("python-kit", "Others", ("",)),
    ),
    "learnforge_testing": (
        Group("python-testing", "Conformance suites", ("suites.", "hooks")),
        Group("python-testing", "Others", ("",)),
    ),
}
WORDS = {
    "Criterion": "What the distill stage calls for every batch: outputs of student and teacher and "
    "the batch to a scalar.",
    "Choice": "What a choice of a design may be.",
    "Design": "A network as plain data: what ``Space.design`` returns.",
    "Parameters": "A network's parameters by name; those of several tasks have a first axis for the task.",
    "Runtime": "Runs an exported file: from uint8 images [batch, channel, height, width] to class scores "
    "[batch, class].",
    "TransferCriterion": "What the transfer loop calls for every batch; see ``PhasedTransfer.loss``.",
    "hookimpl": "Mark a function as an implementation of the hook of its name: ``@learnforge.hookimpl``, or "
    "``@learnforge.hookimpl(tryfirst=True)``.",
    "hookspec": "Mark a function as the specification of a hook that other plugins implement.",
}


def homes(package: ModuleType) -> dict[str, str]:
    """Return {public name: module that it comes from}, in the order of the package's `.pyi` file."""
    stub = Path(str(package.__file__)).with_suffix(".pyi").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ImportFrom):
            found |= dict.fromkeys((alias.name for alias in node.names), str(node.module))
    return {name: found.get(name, "") for name in sorted(package.__all__, key=list(found).index)}


def pages() -> dict[str, str]:
    """Return the pages of the three packages, by name."""
    parts: dict[str, list[str]] = {}
    for package in PACKAGES:
        left = homes(package)
        for group in GROUPS[package.__name__]:
            names = [name for name, home in left.items() if _is_of(home, group)]
            if names:
                names.sort(key=lambda name: name not in BASES)
                left = {name: home for name, home in left.items() if name not in names}
                text = "\n".join(directive(package, name) for name in names)
                parts.setdefault(group.page, []).append(f"## {group.title}\n\n```{{eval-rst}}\n{text}\n```")
    return {page: "\n\n".join(text) + "\n" for page, text in parts.items()}


def _is_of(home: str, group: Group) -> bool:
    return any(own in ("", home) or (own.endswith(".") and home.startswith(own)) for own in group.homes)


def directive(package: ModuleType, name: str) -> str:
    """Return the directive that documents a public name."""
    value = getattr(package, name)
    full = f"{package.__name__}.{name}"
    if inspect.isclass(value) and not isinstance(value, GenericAlias):
        sort = "autoexception" if issubclass(value, BaseException) else "autoclass"
        return f".. {sort}:: {full}\n   :members:\n   :member-order: bysource\n"
    if inspect.isfunction(value):
        return f".. autofunction:: {full}\n"
    definition, words = source(package, name)
    words = WORDS.get(name, words).replace("\n", "\n   ")
    shown = f"\n\n   .. code-block:: python\n\n      {name} = {definition}" if definition else ""
    return f".. py:data:: {full}\n\n   {words}{shown}\n"


def source(package: ModuleType, name: str) -> tuple[str, str]:
    """Return what a constant is assigned, and the docstring after it."""
    home = importlib.import_module(f"{package.__name__}.{homes(package)[name]}")
    body = ast.parse(inspect.getsource(home)).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value: Any = after.value if isinstance(after, ast.Expr) else None
            words = inspect.cleandoc(value.value) if isinstance(value, ast.Constant) else ""
            assigned = getattr(node, "value", None)
            is_shown = assigned is not None and not name.startswith("hook")
            return (ast.unparse(assigned) if is_shown else "", words.replace("`", "``"))
    return "", ""


def public_names() -> dict[str, str]:
    """Return {where a public name is defined: its public name}, both in full."""
    return {
        f"{package.__name__}.{home}.{name}": f"{package.__name__}.{name}"
        for package in PACKAGES
        for name, home in homes(package).items()
    }


def public_classes() -> list[str]:
    """List the full names of public classes."""
    return [
        f"{package.__name__}.{name}"
        for package in PACKAGES
        for name in package.__all__
        if inspect.isclass(getattr(package, name)) and not isinstance(getattr(package, name), GenericAlias)
    ]
