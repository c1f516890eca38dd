"""Steps of modules with optimizers of their own, and of optimizers that evaluate a batch several times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.errors import StageError
from learnforge.kinds.seen.turns import Turn
from learnforge_kit.networks.normalisation import statistics_of
from learnforge_kit.training.loop import Trainee
from learnforge_kit.training.optimization import generator_states, make_optimizer
from learnforge_kit.training.settings import Train


def own_optimizer(turn: Turn, trainee: Trainee, settings: Train) -> torch.optim.Optimizer:
    """Make the optimizer of a turn, as the training's settings say where the turn says nothing.

    Raises:
        StageError: Its module has nothing to train, or is not the method's own.
    """
    extra = trainee.extra.parameters() if trainee.extra is not None else ()
    kept, network = set(map(id, extra)), set(map(id, trainee.network.parameters()))
    own = {id(p) for p in turn.module.parameters() if p.requires_grad}
    if not own or not own <= kept or own & network:
        what = "has nothing to train" if not own else "has weights that are no part of the criterion"
        raise StageError(
            f"a turn must train a part of the method's criterion: {type(turn.module).__name__} {what}"
        )
    changed = evolve(
        settings,
        optimizer=turn.optimizer or settings.optimizer,
        learning_rate=turn.learning_rate or settings.learning_rate,
    )
    return make_optimizer([{"params": list(turn.module.parameters())}], changed)


@contextmanager
def undone(
    modules: nn.Module,
    counts: dict[str, int],
    counted: Mapping[str, int],
    device: str,
    drawn: Sequence[Tensor],
) -> Iterator[None]:
    """Draw and count again what was drawn and counted before; put buffers, counts and generators back after
    the block.
    """
    after, states = dict(counts), generator_states(device)
    counts.update(counted)
    _put_generators(drawn)
    buffers = _copies(modules.buffers())
    try:
        yield
    finally:
        _put_back(buffers)
        _put_generators(states)
        counts.update(after)


@contextmanager
def kept_statistics(network: nn.Module, but: nn.Module | None = None) -> Iterator[None]:
    """Keep all running statistics as they are for a block, whatever mode the layers are in.

    Args:
        network: The network.
        but: A part of it, or of another, whose layers go on as ever.
    """
    others = set(but.modules()) if but is not None else set()
    layers = [layer for layer in network.modules() if statistics_of(layer) and layer not in others]
    before = _copies(buffer for layer in layers for buffer in layer.buffers(recurse=False))
    try:
        yield
    finally:
        _put_back(before)


def _put_back(buffers: Iterable[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)


def _copies(buffers: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(buffer, buffer.clone()) for buffer in buffers]


def _put_generators(states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)
