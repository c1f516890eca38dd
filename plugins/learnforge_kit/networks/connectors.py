"""Connectors bring a student's features to the shape of its teacher's."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from learnforge.errors import StageError
from learnforge.kinds.seen.network import Layers
from learnforge_kit.networks.cut import pool

Pairs = Mapping[str, str]
"""{student layer: teacher layer}, each by name, as `stage 2` or as `embedding`; see `Layers.find`."""


class Connector(nn.Module):
    """Maps a student's features to a teacher's channels, by a 1 × 1 convolution or a linear layer, and
    averages the larger of two feature maps down to the smaller one's height and width.

    Args:
        student: Features of the student, float [batch, channel, height, width], [batch, token, channel] or
            [batch, channel]; only the shape counts.
        teacher: The same of the teacher.
    """

    def __init__(self, student: Tensor, teacher: Tensor):
        super().__init__()
        student_features, teacher_features = match_extent(student, teacher)
        is_map = student_features.ndim == 4
        self.map: nn.Module = (
            nn.Conv2d(student_features.shape[1], teacher_features.shape[1], 1)
            if is_map
            else nn.Linear(student_features.shape[1], teacher_features.shape[1])
        )

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return both features in one shape, the student's mapped."""
        student_features, teacher_features = match_extent(student, teacher)
        return self.map(student_features), teacher_features


def match_extent(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both features with the height and width of the smaller one.

    Where one of them has no height and width, both are averaged to [batch, channel].
    """
    if student.ndim != 4 or teacher.ndim != 4:
        return pool(student), pool(teacher)
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return _shrink(student, size), _shrink(teacher, size)


def pair_stages(student: Layers | None, teacher: Layers | None) -> dict[str, str]:
    """Pair the stages of two networks from the last backwards: {`stage 2`: `stage 3`, …}.

    Args:
        student: Layers of the student, as `taps` gets them and `Outputs.layers` has them.
        teacher: Layers of the teacher.

    Raises:
        StageError: One of them has no stages.
    """
    assert student is not None
    assert teacher is not None
    for role, layers in (("student", student), ("teacher", teacher)):
        if not layers.stages:
            raise StageError(
                f"the {role} {type(layers.network).__name__} has no stages, since no layer puts out [batch, "
                f'channel, height, width]; give `pairs = {{ "student layer" = "teacher layer" }}`. Layers: '
                f"{', '.join(layers.shapes)}"
            )
    of_student, of_teacher = len(student.stages), len(teacher.stages)
    return {
        f"stage {of_student - back}": f"stage {of_teacher - back}"
        for back in reversed(range(min(of_student, of_teacher)))
    }


def _shrink(features: Tensor, size: tuple[int, int]) -> Tensor:
    return features if features.shape[2:] == size else F.adaptive_avg_pool2d(features, size)
