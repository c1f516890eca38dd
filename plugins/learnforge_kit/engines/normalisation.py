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
import inspect
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from learnforge.errors import StageError
from learnforge_kit.networks.normalisation import statistics_of

Policy = Literal["support", "transductive", "per-query", "running"]


POLICIES: tuple[Policy, ...] = ("support", "transductive", "per-query", "running")


class EpisodeNorm(_BatchNorm):
    """Put before the class of a batch normalisation, so that the layer follows a policy and is else what it
    was: its parameters and buffers keep their names, and a subclass that does more goes on doing it.

    Written in elementary operations, which differentiate twice and vectorise over tasks exactly.
    """

    running_mean: Tensor
    running_var: Tensor
    policy: Policy
    reference: int | None  # how many images at the start of a batch give the statistics; None: all
    statistics: tuple[Tensor, Tensor]  # the last ones measured
    is_plain: bool  # whether the layer does nothing but normalise

    def forward(self, images: Tensor) -> Tensor:
        """Normalise [image, channel, …] over images and positions."""
        if self.is_plain:
            return self.normalise(images, self.weight, self.bias)
        with _Rerouted(self) as rerouted:
            outputs = super().forward(images)
        if not rerouted.is_met and self.policy != "running":
            raise StageError(
                f"{type(self).__name__} must normalise by torch.nn.functional.batch_norm to follow the "
                f"policy {self.policy!r}, but it does not call it. Let it, or take another network."
            )
        return outputs

    def normalise(self, images: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return what the layer's batch normalisation gives, before anything else that the layer does."""
        shape = (1, -1, *[1] * (images.ndim - 2))
        if self.policy == "running":
            mean, variance = self.running_mean, self.running_var
        elif self.reference is None:
            return F.batch_norm(images, None, None, weight, bias, training=True, eps=self.eps)
        else:
            axes = [axis for axis in range(images.ndim) if axis != 1]
            own = images[: self.reference]
            mean = own.mean(axes)
            variance = (own - mean.view(shape)).square().mean(axes)
            self.statistics = (mean, variance)
        scaled = (images - mean.view(shape)) * torch.rsqrt(variance.view(shape) + self.eps)
        if weight is None or bias is None:  # affine=False
            return scaled
        return scaled * weight.view(shape) + bias.view(shape)


class _Rerouted(TorchFunctionMode):
    """While it is open, `F.batch_norm` is an episode's normalisation."""

    def __init__(self, norm: EpisodeNorm):
        super().__init__()
        self.norm, self.is_met = norm, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.batch_norm:
            return func(*args, **(kwargs or {}))
        self.is_met = True
        given = _BATCH_NORM.bind(*args, **(kwargs or {})).arguments
        return self.norm.normalise(given["input"], given.get("weight"), given.get("bias"))


_BATCH_NORM = inspect.signature(F.batch_norm)


def prepare_normalisation(network: nn.Module, policy: Policy) -> nn.Module:
    """Return a copy of a network whose batch normalisations follow a policy; its state dict has the
    same names.

    Raises:
        StageError: A layer keeps no running statistics, so an adapted network could not keep its
            support set's; or it keeps some, and is no batch normalisation that could follow the policy.
    """
    network = copy.deepcopy(network)
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            if module.running_mean is None:
                raise StageError(
                    f"the layer {name!r} must keep running statistics, so that an adapted network can judge "
                    f"images one by one, but {module} does not. Build it with `track_running_stats=True`."
                )
            _follow(module, policy)
        elif policy != "running" and statistics_of(module):
            raise StageError(
                f"the layer {name!r} must be a batch normalisation to follow the policy {policy!r}, but it "
                f'is {module}, with running statistics of its own kind. Set `normalisation = "running"`, or '
                f"take another network."
            )
    return network


def _follow(layer: _BatchNorm, policy: Policy) -> None:
    """Make a batch normalisation one of an episode, in place."""
    cls = type(layer)
    own = {
        "policy": policy,
        "reference": None,
        "statistics": (layer.running_mean, layer.running_var),
        "is_plain": cls.forward is _BatchNorm.forward,
    }
    layer.__class__ = type(cls.__name__, (EpisodeNorm, cls), own)
