"""Data-free adversarial distillation: a generator makes the images on which student and teacher differ most.

    generator:  max over G of |t(G(z)) - s(G(z))|;  student:  min over s of the same

Reference:
    Fang et al., Data-free adversarial distillation, 2019. arXiv:1912.11006 (equations 2 to 4)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from attrs import field, frozen
from attrs.validators import ge, gt
from torch import Tensor, nn

from learnforge import Batch, Distiller, Outputs, Task, Turn, hookimpl


@frozen
class DataFree(Distiller):
    """Teaches without a single image of the task: batches only count the steps.

    Args:
        latent: Length of the generator's input, from 1.
        width: Hidden units of the generator, from 1.
        rate: Learning rate of the generator, above 0.
        steps: Steps of the generator for each of the student, from 1.
    """

    shows_images: ClassVar[bool] = False

    latent: int = field(default=32, validator=ge(1))
    width: int = field(default=128, validator=ge(1))
    rate: float = field(default=1e-3, validator=gt(0.0))
    steps: int = field(default=1, validator=ge(1))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        raise NotImplementedError("the criterion has the generator")

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> _Gap:
        return _Gap(self, task.info.input_shape)

    def turns(self, criterion: Any, student: Outputs, teacher: Outputs) -> Sequence[Turn]:
        gap = cast("_Gap", criterion)
        return [
            Turn(
                gap.generator,
                lambda batch: -gap(student, teacher, batch),
                learning_rate=self.rate,
                steps=self.steps,
            )
        ]


class _Gap(nn.Module):
    def __init__(self, method: DataFree, shape: tuple[int, ...]):
        super().__init__()
        self.latent, self.shape = method.latent, shape
        self.generator = nn.Sequential(
            nn.Linear(method.latent, method.width),
            nn.BatchNorm1d(method.width),
            nn.ReLU(),
            nn.Linear(method.width, math.prod(shape)),
            nn.BatchNorm1d(math.prod(shape), affine=False),  # normalised as the task's images are
        )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        noise = torch.randn(len(batch.labels), self.latent, device=batch.labels.device)
        images = self.generator(noise).view(-1, *self.shape)
        return (teacher.run(images).logits - student.run(images).logits).abs().mean()


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"data-free": DataFree}
