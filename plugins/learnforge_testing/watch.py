"""Watching a method at work in its stage: what it changes, what it leaves behind, how it takes a kill."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge import context as context_module
from learnforge.context import Context, Emit
from learnforge.kinds.seen.network import Outputs
from learnforge.kinds.task import Batch, Task
from learnforge.plugins.registry import Plugins
from learnforge.spec import hash_tensor
from learnforge_kit.training.loop import train_on_labels
from learnforge_kit.training.settings import Train
from learnforge_testing.suite import require

T = TypeVar("T")


class StoppedError(Exception):
    """Stands for whatever ends a stage early."""


class WatchedParts(nn.Module):
    """A method's module, trained and checkpointed as it is, whose calls go through a watcher.

    Args:
        inner: The module.
        call: Called instead; calls the module in turn.
    """

    def __init__(self, inner: nn.Module, call: Callable[..., Tensor]):
        super().__init__()
        self.inner, self.call = inner, call

    def forward(self, *arguments: Any) -> Tensor:
        """Call the watcher."""
        return self.call(*arguments)


def make_context(folder: Path | None = None, seed: int = 0, emit: Emit | None = None) -> Context:
    """Make a context on the CPU without hooks-only plugins; `folder=None` keeps nothing."""
    context = Context("stage", seed, torch.device("cpu"), Plugins(), folder)
    return evolve(context, emit=emit) if emit else context


def train_alone(network: nn.Module, task: Task, train: Train, seed: int = 0) -> nn.Module:
    """Train a network on labels alone, by cross-entropy, and return it."""
    train_on_labels(network, task, train, make_context(seed=seed), "", is_validated=False)
    return network


def run_in_two(run: Callable[[Context], T], epochs: int) -> T:
    """Return what a run gives that is killed in some epoch and then goes on in the same folder.

    Args:
        run: Runs a stage in a context, with nothing left over from the call before.
        epochs: The epoch whose end the first call does not live to see, counted from 1 over the whole stage.
    """
    left = [epochs]

    def kill(event: str, **data: Any) -> None:
        left[0] -= event == "epoch_finished"
        if left[0] == 0:
            raise StoppedError

    every_epoch = mock.patch.object(context_module, "CHECKPOINT_SECONDS", 0.0)
    with tempfile.TemporaryDirectory() as folder, every_epoch:
        with contextlib.suppress(StoppedError):
            run(make_context(Path(folder), emit=kill))
        return run(make_context(Path(folder)))


def hashes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return {name: hash of a tensor's type, shape and bytes}."""
    return {name: hash_tensor(tensor) for name, tensor in tensors.items()}


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """List the names whose hashes differ, or which are on one side only."""
    return [name for name in {**before, **after} if before.get(name) != after.get(name)]


def require_trained(start: Mapping[str, str], parameters: Mapping[str, Tensor]) -> None:
    """Require that every weight of a criterion differs from its hash at the start."""
    still = [name for name, value in hashes(parameters).items() if start[name] == value]
    require(not still, f"the criterion's weights must be trained, {', '.join(still)} did not move")


def handed(**values: Outputs | Batch | None) -> dict[str, Tensor]:
    """Name the tensors in what a loss is handed, such as `student.logits`."""
    found: dict[str, Tensor] = {}
    for role, value in values.items():
        if isinstance(value, Outputs):
            found[f"{role}.logits"] = value.logits
            found |= {f"{role}.taps[{name!r}]": tensor for name, tensor in value.taps.items()}
        elif value is not None:
            fields = ("images", "labels", "indices", "views")
            found |= {f"{role}.{name}": getattr(value, name) for name in fields}
    return found


def hooked(network: nn.Module) -> list[str]:
    """List the layers of a network that somebody still listens to."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = network.named_modules()
    return [name or "the network" for name, m in modules if any(getattr(m, kind) for kind in kinds)]


def mend(loss: Tensor, anchor: Tensor) -> Tensor:
    """Return a loss that can be trained on, whatever came, so that its faults show in their own check."""
    scalar = loss.mean() if loss.ndim else loss
    return scalar if scalar.requires_grad else scalar + 0.0 * anchor.sum()
