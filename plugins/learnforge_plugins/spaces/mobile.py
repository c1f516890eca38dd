"""Mobile networks: stages of inverted residual blocks with their own depth, width, kernel, expansion, gate
and activation.

A block expands its channels by a convolution of size 1, filters each of them by a depthwise convolution,
weighs the channels by squeeze-and-excite where the stage has it, and projects them back without activation;
a shortcut goes around it where shapes allow. The first block of a stage halves the resolution (but for the
first stage). All blocks of a stage share its choices. An expansion of 1 leaves the first convolution out.

Reference:
    Tan, Chen, Pang, Vasudevan, Sandler, Howard & Le, MnasNet: platform-aware neural architecture search for
    mobile, 2019. arXiv:1807.11626
    Howard et al., Searching for MobileNetV3, 2019. arXiv:1905.02244
    Hu, Shen, Albanie, Sun & Wu, Squeeze-and-excitation networks, 2018. arXiv:1709.01507
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import deep_iterable, ge, gt, le, min_len
from torch import Tensor, nn

from learnforge import Pick, Space, TaskInfo, hookimpl

ACTIVATIONS = {"relu": nn.ReLU, "hardswish": nn.Hardswish}


def _odd(instance: object, attribute: Any, value: int) -> None:
    if value % 2 == 0 or value < 1:
        raise ValueError(f"{attribute.name!r} must hold odd numbers from 1, got {value}")


@frozen
class Mobile(Space):
    """Networks in the manner of MnasNet and MobileNetV3, for images of any size.

    Args:
        stages: Stages, from 1; each but the first halves the resolution.
        depth: Most blocks in a stage, from 1.
        width: Channels of the first stage before its factor, from 1; doubled in each further stage.
        factors: Factors on a stage's channels that can be chosen, above 0.
        kernels: Kernel sizes that can be chosen, odd.
        expansions: Expansions that can be chosen, from 1.
    """

    stages: int = field(default=3, validator=[ge(1), le(64)])
    depth: int = field(default=3, validator=[ge(1), le(64)])
    width: int = field(default=16, validator=ge(1))
    factors: tuple[float, ...] = field(
        default=(0.5, 0.75, 1.0, 1.25), validator=[min_len(1), deep_iterable(gt(0.0))]
    )
    kernels: tuple[int, ...] = field(default=(3, 5), validator=[min_len(1), deep_iterable(_odd)])
    expansions: tuple[int, ...] = field(default=(1, 3, 6), validator=[min_len(1), deep_iterable(ge(1))])

    def design(self, pick: Pick) -> dict[str, Any]:
        return {"stages": [self._stage(pick, s) for s in range(self.stages)]}

    def _stage(self, pick: Pick, number: int) -> dict[str, Any]:
        name = f"stage{number}"
        width = self.width * 2**number * pick.choice(f"{name}.factor", self.factors)
        return {
            "width": max(4, round(width / 4) * 4),
            "depth": pick.integer(f"{name}.depth", 1, self.depth),
            "kernel": pick.choice(f"{name}.kernel", self.kernels),
            "expansion": pick.choice(f"{name}.expansion", self.expansions),
            "squeeze": pick.choice(f"{name}.squeeze", (False, True)),
            "activation": pick.choice(f"{name}.activation", tuple(ACTIVATIONS)),
        }

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        width = design["stages"][0]["width"]
        layers: list[nn.Module] = [_conv_norm(task.input_shape[0], width, 3), nn.Hardswish()]
        for number, stage in enumerate(design["stages"]):
            for block in range(stage["depth"]):
                stride = 2 if number > 0 and block == 0 else 1
                layers.append(MobileBlock(width, stride, stage))
                width = stage["width"]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, task.outputs))


class MobileBlock(nn.Module):
    """An inverted residual block (Howard et al., figure 4).

    Args:
        inside: Channels that come in.
        stride: Step of the depthwise convolution.
        stage: The choices of its stage.
    """

    def __init__(self, inside: int, stride: int, stage: dict[str, Any]):
        super().__init__()
        activation, outside = ACTIVATIONS[stage["activation"]], stage["width"]
        inner = inside * stage["expansion"]
        layers: list[nn.Module] = []
        if stage["expansion"] > 1:
            layers += [_conv_norm(inside, inner, 1), activation()]
        layers += [_conv_norm(inner, inner, stage["kernel"], stride, inner), activation()]
        if stage["squeeze"]:
            layers.append(SqueezeExcite(inner))
        self.body = nn.Sequential(*layers, _conv_norm(inner, outside, 1))
        self.has_shortcut = stride == 1 and inside == outside

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.body(images)
        return images + result if self.has_shortcut else result


class SqueezeExcite(nn.Module):
    """Weighs channels by a gate that sees the mean of each (Hu et al., figure 2)."""

    def __init__(self, width: int):
        super().__init__()
        inner = max(4, width // 4)
        self.squeeze, self.excite = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.squeeze(images.mean((2, 3), keepdim=True))))
        return images * F.hardsigmoid(gate)


def _conv_norm(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


@hookimpl
def learnforge_spaces() -> dict[str, type[Space]]:
    return {"mobile": Mobile}
