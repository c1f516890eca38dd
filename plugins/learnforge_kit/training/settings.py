"""How a network is trained: the table `train` of a recipe."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from attrs import Attribute, field, frozen
from attrs.validators import deep_iterable, ge, gt, in_, lt, optional
from torch import nn

from learnforge.kinds.optimizer import Optimizer
from learnforge.options.structure import plugin_field
from learnforge.spec import TaskInfo
from learnforge_kit.training.augmentation import Augmentation


@frozen
class Train:
    """How a network is trained.

    Args:
        epochs: Passes over the training split, from 0.
        batch_size: Images in a step. A last batch of a single image is left out, since batch statistics need
            two; with batches of one, batch normalisation uses the running statistics that the network has.
        eval_batch_size: Images in a pass that measures accuracy, from 1; by default up to 512, and fewer
            where images are large, so that a pass holds about a million pixels.
        optimizer: Name of an optimizer, or its table, `{ use = "sgd", momentum = 0.8 }`; by default `adamw`.
        learning_rate: Peak learning rate.
        weight_decay: Decay of the weights, as the optimizer defines it; biases and normalisation are
            not decayed.
        decay_all: Decay biases and normalisation too, as much of the literature does.
        schedule: Course of the learning rate after the warm-up: `constant`, `cosine` or `linear` to 0, `step`
            by a tenth at each of the milestones, or `one-cycle` (30 % rise from a 25th, then fall to nothing,
            both as cosines).
        milestones: When `step` lowers the rate, as shares of the training, in (0, 1).
        warmup_epochs: Epochs of linear rise at the start, may be a fraction.
        label_smoothing: Share of the target spread evenly over the classes, in [0, 1).
        clip_norm: Largest norm of the gradient; larger ones are scaled down to it.
        ema: Decay of an exponential moving average of the weights per step, which then replaces them.
        patience: Stop after so many epochs without a better validation accuracy.
        weights: Keep the `last` epoch's weights, or those of the epoch with the `best` validation accuracy.
        crop: Padding in pixels for random crops, 0 for none.
        flip: Flip half of the images left to right.
        time_mask: Hide a stretch of columns of each input, of a random length up to this share of them, in
            [0, 1): time, in spectrograms (SpecAugment: Park et al. 2019. arXiv:1904.08779).
        frequency_mask: The same for rows.
        mixup: Shape of the beta distribution by which pairs of images are blended (Zhang et al. 2017.
            arXiv:1710.09412), from 0, which blends none.
        cutmix: The same for pasting a rectangle of one image into another (Yun et al. 2019.
            arXiv:1905.04899). With both, every batch gets one of the two.
        balanced: Show every class equally often, whatever its share of the images: an epoch has as many
            images as before, those of rare classes several times, in other views.
        precision: `32`, or `bf16` for autocast to bfloat16.
    """

    epochs: int = field(default=20, validator=ge(0))
    batch_size: int = field(default=64, validator=ge(1))
    eval_batch_size: int | None = field(default=None, validator=optional(ge(1)))
    optimizer: Optimizer | None = plugin_field("optimizer", default=None)
    learning_rate: float = field(default=3e-3, validator=gt(0.0))
    weight_decay: float = field(default=1e-2, validator=ge(0.0))
    decay_all: bool = False
    schedule: Literal["constant", "cosine", "linear", "step", "one-cycle"] = field(
        default="cosine", validator=in_(("constant", "cosine", "linear", "step", "one-cycle"))
    )
    milestones: tuple[float, ...] = field(default=(0.5, 0.75), validator=deep_iterable([gt(0.0), lt(1.0)]))
    warmup_epochs: float = field(default=0.0, validator=ge(0.0))
    label_smoothing: float = field(default=0.0, validator=[ge(0.0), lt(1.0)])
    clip_norm: float | None = field(default=None, validator=optional(gt(0.0)))
    ema: float | None = field(default=None, validator=optional([gt(0.0), lt(1.0)]))
    patience: int | None = field(default=None, validator=optional(ge(1)))
    weights: Literal["last", "best"] = field(default="last", validator=in_(("last", "best")))
    crop: int = field(default=0, validator=ge(0))
    flip: bool = False
    time_mask: float = field(default=0.0, validator=[ge(0.0), lt(1.0)])
    frequency_mask: float = field(default=0.0, validator=[ge(0.0), lt(1.0)])
    mixup: float = field(default=0.0, validator=ge(0.0))
    cutmix: float = field(default=0.0, validator=ge(0.0))
    balanced: bool = False
    precision: Literal["32", "bf16"] = field(default="32", validator=in_(("32", "bf16")))

    @optimizer.validator
    def _(self, field: Attribute[Any], value: Any) -> None:
        if value is not None and not isinstance(value, Optimizer):
            raise TypeError(f'must be an optimizer, such as `load_method("optimizer.sgd")()`, got {value!r}')

    def __attrs_post_init__(self) -> None:
        if self.optimizer is None:
            return
        weight, bias = (nn.Parameter(torch.zeros(shape)) for shape in ((1, 1), (1,)))
        decays = (self.weight_decay, self.weight_decay * self.decay_all)
        groups = [
            {"params": [p], "lr": self.learning_rate, "weight_decay": decay}
            for p, decay in zip((weight, bias), decays, strict=True)
        ]
        try:
            self.optimizer.make(groups)
        except Exception as error:  # whatever a stranger's code raises
            name = type(self.optimizer).__name__
            raise ValueError(f"the optimizer {name} cannot train networks so: {error}") from error

    @property
    def augmentation(self) -> Augmentation:
        """The views that images are shown in."""
        return Augmentation(self.crop, self.flip)

    @property
    def mixes_images(self) -> bool:
        """Whether batches hold mixtures of images."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def masks_images(self) -> bool:
        """Whether parts of images are hidden."""
        return self.time_mask > 0 or self.frequency_mask > 0

    def fault(self, task: TaskInfo) -> str:
        """Say why a task's inputs or targets do not go with these settings, or ""."""
        if self.augmentation.views == 1 and not (self.masks_images or self.mixes_images or self.balanced):
            return ""
        from learnforge_kit.training.suitability import fault_of  # most trainings need none of it

        return fault_of(self, task)

    def rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """Return the factor on the learning rate in a step, in (0, 1].

        Args:
            step: The step, from 0.
            steps: Steps of the whole training.
            steps_per_epoch: Steps of an epoch.
        """
        warmup = min(steps, round(self.warmup_epochs * steps_per_epoch))
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        if self.schedule == "cosine":
            return _cosine(1.0, 0.0, done)
        if self.schedule == "linear":
            return 1 - done
        if self.schedule == "step":
            return 0.1 ** sum(done >= milestone for milestone in self.milestones)
        if self.schedule == "one-cycle":
            return _cosine(1 / 25, 1.0, done / 0.3) if done < 0.3 else _cosine(1.0, 4e-6, (done - 0.3) / 0.7)
        return 1.0


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))
