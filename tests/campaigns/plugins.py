"""Plugins at fault beside a run: each is named, and those that only listen change no bit."""

from __future__ import annotations

import inspect
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import tomli_w
from attrs import define, field

from learnforge import hookspecs
from learnforge.hookspecs import CHANGING, NOTIFYING
from tests.campaigns.campaign import Campaign
from tests.campaigns.recipes import QUICK, STAGES
from tests.core.test_resume import results

RUN_SECONDS = 120.0
TOLD = {
    "an error": "raise ValueError('no')",
    "an exit": "raise SystemExit(3)",
    "a strange error": "raise type('Strange', (BaseException,), {})('no')",
    "an error that cannot be shown": "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "an error of control characters": "raise ValueError('\\x1b[2J\\x07')",
    "recursion": "f = lambda: f()\n    f()",
    "out of memory": "raise MemoryError()",
    "the end of a generator": "raise GeneratorExit()",
    "the end of an iteration": "next(iter(()))",
    "a default type": "torch.set_default_dtype(torch.float64)",
    "a default device": "torch.set_default_device('meta')",
    "no gradient": "torch.set_grad_enabled(False)",
    "threads": "torch.set_num_threads(3)",
    "autocast": "torch.set_autocast_enabled('cpu', True)",
    "oneDNN": "torch.backends.mkldnn.enabled = False",
    "precision": "torch.set_float32_matmul_precision('medium')",
    "precision of oneDNN": "torch.backends.mkldnn.fp32_precision = 'bf16'",
    "denormals": "torch.set_flush_denormal(True)",
    "deterministic algorithms": "torch.use_deterministic_algorithms(True)",
    "anomaly detection": "torch.autograd.set_detect_anomaly(True)",
}
"""What a hook may not do: the run says who did it."""
SILENT = {
    "random numbers": "torch.randn(3); np.random.rand(); random.random(); torch.manual_seed(1)",
    "changed arguments": "[change(value) for value in given.values()]",
    "another plugin": "[add(value) for value in given.values()]",
    "a thread": "threading.Thread(target=time.sleep, args=(1.0,)).start()",
}
"""What must have no effect, and need not be said."""
HEAD = """
import random, threading, time
import numpy as np
import torch
import learnforge as lf
from learnforge import hookimpl
from learnforge.report import Section

def change(value):
    if isinstance(value, dict):
        value.clear()
    if isinstance(value, lf.Artifact):
        [weight.zero_() for weight in (value.weights or {}).values()]
        value.metrics.clear()
    if isinstance(value, lf.Run):
        value.stages.clear()
        value.artifacts.clear()

def add(value):
    if isinstance(value, lf.Run):
        try:
            value.plugins.add(object())
        except lf.PluginError:
            pass
"""
AT_IMPORT = {
    **TOLD,
    "a module that answers nothing": "pass\ndef __getattr__(name): raise RuntimeError(name)",
    "an unknown hook": "pass\n@hookimpl\ndef learnforge_nothing(): pass",
    "a hook with strange arguments": "pass\n@hookimpl\ndef learnforge_stage_started(stage, whatever): pass",
    "a hook without its mark": "pass\ndef learnforge_stage_started(stage): pass",
    "an async hook": "pass\n@hookimpl\nasync def learnforge_stage_started(stage): pass",
    "no Python": "1 1",
}
HARMLESS_AT_IMPORT = "a module that answers nothing"
RESULTS = {
    "learnforge_batch": (
        *("3", "[]", "lf.evolve", "object()", "attrs.evolve(batch, images=None)"),
        *(
            "attrs.evolve(batch, images=batch.images[:1])",
            "attrs.evolve(batch, images=batch.images.double())",
        ),
        *("attrs.evolve(batch, labels=batch.labels[:0])", "attrs.evolve(batch, images=batch.images[:, 0])"),
    ),
    "learnforge_vet_design": ("3", "True", "[]", "{'a': 1}"),
    "learnforge_report_sections": (
        *("3", "[3]", "[Section('t', figures=[3])]", "[Section('t', figures=[Broken()])]", "object()"),
        *("[Section('t', figures=3)]", "Section('t')", "(1 / 0 for _ in range(2))"),
    ),
    "learnforge_missing": ("3", "[3]", "object()"),
}
"""Hooks that give something, and what they may not give."""
ARGUMENTS = {
    "learnforge_batch": "batch, task, stage, part, generator",
    "learnforge_vet_design": "design, cost, stage",
    "learnforge_report_sections": "run",
    "learnforge_missing": "",
}


@define
class Plugins(Campaign):
    """Runs a recipe beside a plugin that does one thing that it should not."""

    name: ClassVar[str] = "plugins"
    expected: dict[str, Any] = field(factory=dict)

    def prepare(self) -> None:
        """Run the recipe alone."""
        work = self.folder / "made"
        work.mkdir()
        (work / "recipe.toml").write_text(_recipe())
        outcome = self.desk.run(["run", "recipe.toml"], work, RUN_SECONDS)
        assert outcome.code == 0, outcome.output
        self.expected = results(work / "runs" / "quick")

    def attempt(self, rng: Random, folder: Path) -> list[str]:
        """Write one plugin, and run the recipe with it."""
        (folder / "recipe.toml").write_text(_recipe())
        sort = rng.choice(("listens", "listens", "at import", "gives", "silent"))
        is_fatal, must_tell = False, True
        if sort == "at import":
            what, source = rng.choice(sorted(AT_IMPORT.items()))
            is_fatal, must_tell = None, what != HARMLESS_AT_IMPORT
            text = HEAD + source.replace("\n    ", "\n") + "\n"
        elif sort == "gives":
            hook = rng.choice(sorted(RESULTS))
            what = f"{hook} -> {rng.choice(RESULTS[hook])}"
            broken = "import attrs\nclass Broken:\n    def to_html(self, **given): raise ValueError('no')\n"
            body = f"@hookimpl\ndef {hook}({ARGUMENTS[hook]}):\n    return {what.split(' -> ')[1]}\n"
            text, is_fatal = HEAD + broken + body, hook in CHANGING
        else:
            hook = rng.choice([*NOTIFYING, *CHANGING] if sort == "listens" else NOTIFYING)
            act, source = rng.choice(sorted((TOLD if sort == "listens" else SILENT).items()))
            names = _arguments(hook)
            text = HEAD + f"@hookimpl\ndef {hook}({names}):\n    given = dict(locals())\n    {source}\n"
            what, must_tell = f"{act} in {hook}", sort == "listens"
            is_fatal = hook in CHANGING and not source.startswith("torch.")
            must_tell = must_tell and hook != "learnforge_run_failed"
        (folder / "guilty.py").write_text(text)
        outcome = self.desk.run(["run", "recipe.toml", "--plugin", "./guilty.py"], folder, RUN_SECONDS)
        found = outcome.faults()
        if must_tell and "guilty" not in outcome.output:
            found.append("the plugin is not named")
        if is_fatal is not None and bool(outcome.code) != is_fatal:
            found.append(f"exit status {outcome.code}: {outcome.output[-300:]}")
        if not outcome.code and results(folder / "runs" / "quick") != self.expected:
            found.append("other bits")
        return [f"{what}: {fault}" for fault in found]


def _recipe() -> str:
    stages = [{"kind": kind, "name": kind, **STAGES[kind]} for kind in ("search", "distill")]
    return tomli_w.dumps({**QUICK, "stage": stages})


def _arguments(hook: str) -> str:
    return ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
