"""Search a space of one's own: networks of one to three convolutions, each with a width and a kernel size."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from torch import nn

import learnforge as lf


@frozen
class Towers(lf.Space):
    """Convolutions one after the other, then the mean over the image."""

    def design(self, pick: lf.Pick) -> dict[str, Any]:
        depth = pick.integer("depth", 1, 3)
        layers = [
            (pick.integer(f"width{i}", 4, 32, log=True), pick.choice(f"kernel{i}", (1, 3, 5)))
            for i in range(depth)
        ]
        return {"layers": [list(layer) for layer in layers]}

    def build(self, design: dict[str, Any], task: lf.TaskInfo) -> nn.Module:
        channels, layers = task.input_shape[0], []
        for width, kernel in design["layers"]:
            layers += [
                nn.Conv2d(channels, width, kernel, padding=kernel // 2),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, task.outputs)
        )


def main() -> lf.Artifact:
    digits = lf.load_task("digits", classes=[0, 1, 2])
    limits = {"parameters": 5_000}
    return lf.search(
        digits, Towers(), "local", trials=5, limits=limits, train={"epochs": 3, "learning_rate": 0.02}
    )


if __name__ == "__main__":
    found = main().metrics
    print(f"{found['design']}: {found['test_accuracy']:.1%} with {found['parameters']:,} parameters")
