"""What every zero-cost score must keep to: a finite number that depends on what it is shown, and on
nothing else.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from learnforge.kinds.score import Score
from learnforge_kit.data.normaliser import Normaliser
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import require
from learnforge_testing.toys import make_network, make_task

IMAGES = 24


class ScoreSuite(MethodSuite):
    """Checks of a zero-cost score on small convolutional networks."""

    kind: ClassVar[str] = "score"
    base: ClassVar[type] = Score

    def result(self) -> Any:
        return [self._score(make_network(make_task().info, width)) for width in (4, 8)]

    def test_score_is_a_finite_number(self) -> None:
        """A score of a network that works is a finite float."""
        found = self._score(make_network(make_task().info))
        require(isinstance(found, float), f"a score must be a float, got {type(found).__name__}")
        require(math.isfinite(found), f"the score of a network that works must be finite, got {found}")

    def test_networks_have_different_scores(self) -> None:
        """Networks of 4, 8 and 16 channels do not have one score."""
        found = {self._score(make_network(make_task().info, width)) for width in (4, 8, 16)}
        require(len(found) > 1, f"different networks must have different scores, all have {found}")

    def test_equal_networks_have_equal_scores(self) -> None:
        """The same weights and images give the same score, bit for bit."""
        first, second = (self._score(make_network(make_task().info)) for _ in range(2))
        require(first == second, f"the same network must have the same score, got {first} and {second}")

    def test_images_are_left_alone(self) -> None:
        """The batch is not changed: the next design is scored with it too."""
        images, labels = self._batch()
        before = images.clone(), labels.clone()
        self.make().score(make_network(make_task().info), images, labels)
        require(
            torch.equal(images, before[0]) and torch.equal(labels, before[1]),
            "images and labels must stay as they are",
        )

    def test_gradient_mode_is_left_alone(self) -> None:
        """torch's switch for gradients is as it was before: the training that follows needs it."""
        before = torch.is_grad_enabled()
        try:
            torch.set_grad_enabled(True)
            self._score(make_network(make_task().info))
            require(torch.is_grad_enabled(), "gradients must be left switched on")
        finally:
            torch.set_grad_enabled(before)

    def test_network_of_linear_layers_is_scored(self) -> None:
        """A network without convolutions has a finite score too."""
        info = make_task().info
        torch_state = torch.get_rng_state()
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, info.outputs))
        torch.set_rng_state(torch_state)
        found = self._score(network)
        require(math.isfinite(found), f"the score of a perceptron must be finite, got {found}")

    def _batch(self) -> tuple[Tensor, Tensor]:
        task = make_task()
        images, labels, _ = next(iter(task.train.batches(torch.arange(IMAGES), IMAGES)))
        return Normaliser(task.info, torch.device("cpu"))(images), labels

    def _score(self, network: nn.Module) -> float:
        found: float = self.make().score(copy.deepcopy(network).train(), *self._batch())
        return found
