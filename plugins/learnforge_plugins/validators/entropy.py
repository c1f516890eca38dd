"""Certainty: a network that is at home in the new task is sure of its images.

    score = -mean over images of H(p),  H(p) = -sum over classes of p_c log p_c

A network that names one class for everything gets the best score; `infomax` does not fall for that.

Reference:
    Morerio, Cavazza & Murino, Minimal-entropy correlation alignment for unsupervised deep domain adaptation,
    2018 (section 3.3 chooses by it). arXiv:1711.10288
"""

from __future__ import annotations

from attrs import frozen

from learnforge import Evidence, Validator, hookimpl


@frozen
class Entropy(Validator):
    """Mean entropy of the new task's predictions, negated: nats, in [-log(classes), 0]."""

    def score(self, evidence: Evidence) -> float:
        logs = evidence.target.double().log_softmax(1)
        return float((logs.exp() * logs).sum(1).mean())


@hookimpl
def learnforge_validators() -> dict[str, type[Validator]]:
    return {"entropy": Entropy}
