"""What every validator must keep to: a finite number that rises with what it takes for a good network, and
reads nothing but its evidence.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from learnforge.kinds.validator import Evidence, Validator
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import require

CLASSES, IMAGES = 4, 40


class ValidatorSuite(MethodSuite):
    """Checks of a validator on class scores of networks that are right and sure, or guess."""

    kind: ClassVar[str] = "validator"
    base: ClassVar[type] = Validator

    def result(self) -> Any:
        return [self._score(_evidence(margin)) for margin in (0.0, 1.0, 5.0)]

    def test_score_is_a_finite_number(self) -> None:
        """A score is a finite float, also for scores of any size."""
        for margin in (0.0, 5.0, 1e4):
            found = self._score(_evidence(margin))
            require(isinstance(found, float), f"a score must be a float, got {type(found).__name__}")
            require(math.isfinite(found), f"a score must be finite, got {found} for margins of {margin:g}")

    def test_a_good_network_scores_higher_than_a_guess(self) -> None:
        """A network that is right and sure in both tasks has a higher score than one that guesses."""
        good, guess = self._score(_evidence(5.0)), self._score(_evidence(0.0))
        require(good > guess, f"a good network must score higher than a guess, they score {good} and {guess}")

    def test_order_of_images_does_not_matter(self) -> None:
        """The images of a split in another order give the same score, within rounding."""
        plain = _evidence(1.0)
        order = torch.arange(IMAGES - 1, -1, -1)
        turned = Evidence(plain.source[order], plain.source_labels[order], plain.target[order])
        first, second = self._score(plain), self._score(turned)
        require(
            math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9),
            f"the order of images must not matter, the scores are {first} and {second}",
        )

    def test_evidence_is_left_alone(self) -> None:
        """Class scores and labels are only read."""
        evidence = _evidence(1.0)
        before = [t.clone() for t in _tensors(evidence)]
        self._score(evidence)
        same = all(torch.equal(a, b) for a, b in zip(before, _tensors(evidence), strict=True))
        require(same, "the evidence must stay as it is")

    def _score(self, evidence: Evidence) -> float:
        found: float = self.make().score(evidence)
        return found


def _tensors(evidence: Evidence) -> list[Tensor]:
    return [evidence.source, evidence.source_labels, evidence.target]


def _evidence(margin: float) -> Evidence:
    """Make class scores in which the true class stands out of the noise by a margin."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(IMAGES) % CLASSES
    right = margin * torch.nn.functional.one_hot(labels, CLASSES)
    source, target = (right + torch.randn(IMAGES, CLASSES, generator=generator) for _ in range(2))
    return Evidence(source, labels, target)
