"""How well a meta-learnt artifact learns the classes of a few images: each is left out in turn."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from torch import Tensor

from learnforge.artifact import Artifact
from learnforge.kinds.seen.episodes import Labelled
from learnforge.plugins.registry import Plugins
from learnforge_kit.engines.adaptation import ready_learner, with_ways

MOST_FOLDS = 20
"""Adaptations at most that left-out images are judged by."""


@frozen
class LeftOut:
    """How images were named by networks that were taught others.

    Args:
        right: Images named rightly.
        judged: Images that were left out.
        classes: Classes that these are of.
    """

    right: int
    judged: int
    classes: int

    @property
    def accuracy(self) -> float | None:
        """Share that is right; None where none could be left out."""
        return self.right / self.judged if self.judged else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the accuracy, taken as that of independent images (Wilson, Probable inference,
        1927); None where none could be left out.
        """
        if not self.judged:
            return None
        from scipy.stats import binomtest  # slow to import

        found = binomtest(self.right, self.judged).proportion_ci(0.95, "wilson")
        return float(found.low), float(found.high)


def judge_left_out(
    artifact: Artifact, images: Tensor, labels: Tensor, plugins: Plugins, classes: Sequence[str]
) -> LeftOut:
    """Leave images out in turn, and let a network name them that was taught the others.

    One image of each class is left out at a time, or more where a class has over `MOST_FOLDS`, so that
    classes of equal size stay equal. An image that is the only one of its class is never left out.

    Args:
        artifact: What a meta stage made.
        images: float [image, channel, height, width], normalised.
        labels: int64 [image].
        plugins: Where the meta-learner is looked up.
        classes: Names of the classes.
    """
    learner, _, engine, meta = ready_learner(with_ways(artifact, classes, plugins), plugins)
    same = labels[:, None] == labels
    counts, places = same.sum(1), same.tril(-1).sum(1)  # of the image's class, and its place among them
    folds = min(int(counts.max()), MOST_FOLDS)
    right = 0
    for fold in range(folds):
        is_out = (places % folds == fold) & (counts > 1)
        if not is_out.any():
            continue
        support = Labelled(images[None, ~is_out], labels[None, ~is_out])
        query = Labelled(images[None, is_out], labels[None, is_out])
        adapted = learner.adapt(engine, meta, support)[-1]
        right += int((engine.predict(adapted, support, query)[0].argmax(1) == labels[is_out]).sum())
    return LeftOut(right, int((counts > 1).sum()), len(labels[counts > 1].unique()))
