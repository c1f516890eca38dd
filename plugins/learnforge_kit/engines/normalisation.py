"""Batch normalisation in few-shot learning: whose statistics normalise the query is a policy, and it changes
the score.

- `support`: the support set's, at the adapted weights. The query images are judged one by one, as a deployed
  network must.
- `transductive`: the query batch's own, as MAML's authors do. The query images see each other, which helps,
  and which a deployed network cannot do.
- `per-query`: those of the support set and the one query image together, as Reptile's authors do where they
  judge without transduction. Every query image is a pass of its own with the whole support set.
- `running`: the running statistics that the network came with.

Reference:
    Bronskill, Gordon, Requeima, Nowozin & Turner, TaskNorm: Rethinking batch normalization for meta-learning,
    2020. arXiv:2003.03284
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnforge.errors import StageError

Policy = Literal["support", "transductive", "per-query", "running"]


POLICIES: tuple[Policy, ...] = ("support", "transductive", "per-query", "running")


class EpisodeNorm(nn.Module):
    """Batch normalisation of an episode, with parameters and buffers named as in the `nn.BatchNorm2d` it
    stands for.

    Written in elementary operations, which differentiate twice and vectorise over tasks exactly.

    Args:
        norm: The layer to stand for.
        policy: Whose statistics are used.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, policy: Policy):
        super().__init__()
        self.policy, self.eps = policy, norm.eps
        self.reference: int | None = (
            None  # how many images at the start of a batch give the statistics; None: all
        )
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.statistics = self._running()  # the last ones measured

    def forward(self, images: Tensor) -> Tensor:
        """Normalise [image, channel, …] over images and positions."""
        if self.policy == "running":
            return self._scale(images, *self._running())
        if self.reference is None:
            return F.batch_norm(images, None, None, self.weight, self.bias, training=True, eps=self.eps)
        axes = [axis for axis in range(images.ndim) if axis != 1]
        own = images[: self.reference]
        mean = own.mean(axes)
        variance = (own - mean.view(1, -1, *[1] * (images.ndim - 2))).square().mean(axes)
        self.statistics = (mean, variance)
        return self._scale(images, mean, variance)

    def _running(self) -> tuple[Tensor, Tensor]:
        mean, variance = self.running_mean, self.running_var
        assert isinstance(mean, Tensor)
        assert isinstance(variance, Tensor)
        return mean, variance

    def _scale(self, images: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (images.ndim - 2))
        scaled = (images - mean.view(shape)) * torch.rsqrt(variance.view(shape) + self.eps)
        if self.weight is None:  # affine=False
            return scaled
        return scaled * self.weight.view(shape) + self.bias.view(shape)


def prepare_normalisation(network: nn.Module, policy: Policy) -> nn.Module:
    """Return a copy of a network whose batch normalisations follow a policy; its state dict has the
    same names.

    Raises:
        StageError: A layer keeps no running statistics, so an adapted network could not keep its
            support set's.
    """
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            if module.running_mean is None:
                raise StageError(
                    f"the layer {name!r} must keep running statistics, so that an adapted network can judge "
                    f"images one by one, but {module} does not. Build it with `track_running_stats=True`."
                )
            network.set_submodule(name, EpisodeNorm(module, policy))
    return network
