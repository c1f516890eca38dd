"""Reptile: train on a task, move a part of the way to where that led; no second derivatives, no query set.

    phi = theta after k steps of an optimizer on the task's labelled images           (algorithm 1)
    theta <- theta + epsilon * mean over tasks of (phi - theta)

The meta-gradient that the outer optimizer follows is theta - phi, so the paper's outer step is `optimizer =
{ use = "sgd", momentum = 0.0 }`, `learning_rate = 1.0` (epsilon) and `schedule = "linear"`; `clip_norm` must
be above the length of the way, which grows with the network. The inner optimizer is Adam with beta1 = 0, on
mini-batches (section 6.1); give meta-training more labelled images of each class than adaptation has,
`train_shots`, since every mini-batch should be another one. Adam's second moments go on from task to task, as
in the authors' code, and to adaptation: with fresh ones its first steps would move every weight by the whole
rate, however small its gradient.

Reference:
    Nichol, Achiam & Schulman, On first-order meta-learning algorithms, 2018. arXiv:1803.02999
Differs:
    The tasks of an outer step begin with the same second moments, and hand on their mean; the authors' come
    one after the other. They share the order of their mini-batches.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, gt
from torch import Tensor

from learnforge import (
    Engine,
    Episodes,
    FastWeights,
    Labelled,
    MetaGradient,
    MetaLearner,
    Parameters,
    derive,
    hookimpl,
)
from learnforge_kit import permutation

_BETA2, _EPSILON = 0.999, 1e-8
_SQUARES, _STEPS = "adam_square:", "adam_steps"


@frozen
class Reptile(MetaLearner):
    """Reptile with Adam inside.

    Args:
        inner_rate: Adam's learning rate, above 0.
        inner_steps: Steps in meta-training (k), from 1; with one, Reptile is training on all tasks at once.
        batch_size: Images of a mini-batch in meta-training, from 1.
        adaptation_steps: Steps when adapting to new classes, from 0.
        adaptation_batch_size: Images of a mini-batch then, from 1.
    """

    inner_rate: float = field(default=1e-3, validator=gt(0.0))
    inner_steps: int = field(default=5, validator=ge(1))
    batch_size: int = field(default=10, validator=ge(1))
    adaptation_steps: int = field(default=50, validator=ge(0))
    adaptation_batch_size: int = field(default=5, validator=ge(1))

    shaped_as_weights: ClassVar[tuple[str, ...]] = (_SQUARES,)

    def carried_state(self, parameters: Parameters) -> dict[str, Tensor]:
        squares = {_SQUARES + name: torch.zeros_like(t) for name, t in parameters.items()}
        return {_STEPS: next(iter(parameters.values())).new_zeros(()), **squares}

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support = episodes.support
        seed = int(torch.randint(2**31, ()))
        trajectory, squares = self._walk(engine, parameters, support, self.inner_steps, self.batch_size, seed)
        phi = trajectory[-1]
        carried = {_SQUARES + name: t.mean(0) for name, t in squares.items()}
        query = episodes.query(phi.tensors)
        outputs = engine.predict(phi, support, query)
        pairs = zip(outputs, query.labels, strict=True)
        return MetaGradient(
            {name: (parameters[name] - t).mean(0) for name, t in phi.tensors.items()},
            torch.stack([engine.rules.query_loss(own, labels) for own, labels in pairs]),
            engine.accuracies(outputs, query.labels),
            {_STEPS: parameters[_STEPS] + self.inner_steps, **carried},
        )

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        steps, size = self.adaptation_steps, self.adaptation_batch_size
        return self._walk(engine, parameters, support, steps, size, 0)[0]

    def _walk(
        self,
        engine: Engine,
        parameters: Parameters,
        support: Labelled,
        steps: int,
        batch_size: int,
        seed: int,
    ) -> tuple[list[FastWeights], dict[str, Tensor]]:
        """Return the parameters after 0 to `steps` steps of Adam with beta1 = 0, and its second moments then;
        the seed orders images.
        """
        trajectory = [FastWeights({name: parameters[name] for name in engine.names}, is_shared=True)]
        squares = {name: parameters[_SQUARES + name] for name in engine.names}
        for k in range(steps):
            gradients = engine.step(trajectory[-1], _batch(support, k, batch_size, seed)).gradients
            squares = {
                n: torch.addcmul(_BETA2 * squares[n], g, g, value=1 - _BETA2) for n, g in gradients.items()
            }
            unbiased = 1 - _BETA2 ** (parameters[_STEPS] + k + 1)
            sizes = {n: (square / unbiased).sqrt_().add_(_EPSILON) for n, square in squares.items()}
            moves = {n: torch.div(g, sizes[n], out=sizes[n]) for n, g in gradients.items()}
            trajectory.append(trajectory[-1].moved(moves, self.inner_rate))
        return trajectory, squares


def _batch(support: Labelled, step: int, size: int, seed: int) -> Labelled:
    """Return a step's mini-batch: the next images of a shuffled order; at its end they are shuffled anew."""
    count = support.labels.shape[1]
    if size >= count:
        return support
    laps = range(step * size // count, (step * size + size - 1) // count + 1)
    order = torch.cat([permutation(derive(seed, "reptile", lap), count) for lap in laps])
    start = step * size - laps.start * count
    chosen = order[start : start + size].to(support.labels.device)
    return Labelled(support.images[:, chosen], support.labels[:, chosen])


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"reptile": Reptile}
