"""A distiller of one's own: soft labels only. As a plugin file it is used by name.

Reference:
    Hinton, Vinyals & Dean, Distilling the knowledge in a neural network, 2015. arXiv:1503.02531
"""

from __future__ import annotations

import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import gt
from torch import Tensor

import learnforge as lf


@frozen
class Soft(lf.Distiller):
    """Soft labels only: the student sees nothing but the teacher.

    Args:
        temperature: Softens both sides, above 0.
    """

    temperature: float = field(default=4.0, validator=gt(0.0))

    def loss(self, student: lf.Outputs, teacher: lf.Outputs, batch: lf.Batch) -> Tensor:
        t = self.temperature
        log_student, log_teacher = F.log_softmax(student.logits / t, 1), F.log_softmax(teacher.logits / t, 1)
        return F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean") * t * t


@lf.hookimpl
def learnforge_distillers() -> dict[str, type[lf.Distiller]]:
    return {"soft": Soft}


def main() -> lf.Artifact:
    digits = lf.load_task("digits", classes=[0, 1, 2])
    conv4 = lf.load_method("model.conv4")
    student, settings = conv4(width=8, blocks=2), {"learning_rate": 0.02}
    return lf.distill(conv4(width=16), student, Soft(), digits, teacher_train={}, train=settings)


if __name__ == "__main__":
    print(f"student {main().metrics['test_accuracy']:.1%}")
