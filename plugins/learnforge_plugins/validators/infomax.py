"""Mutual information: sure of each image, and of different classes for different images.

    score = H(mean over images of p) - mean over images of H(p)

Reference:
    Shi & Sha, Information-theoretical learning of discriminative clusters for unsupervised domain adaptation,
    2012 (equation 5). arXiv:1206.6438
    Musgrave, Belongie & Lim, Three new validators and a large-scale benchmark ranking for unsupervised domain
    adaptation, 2022 (compares validators). arXiv:2208.07360
"""

from __future__ import annotations

import torch
from attrs import frozen

from learnforge import Evidence, Validator, hookimpl


@frozen
class InfoMax(Validator):
    """Mutual information of image and predicted class in the new task: nats, in [0, log(classes)]."""

    def score(self, evidence: Evidence) -> float:
        logs = evidence.target.double().log_softmax(1)
        probabilities = logs.exp()
        mean = probabilities.mean(0)
        return float(torch.special.entr(mean).sum() + (probabilities * logs).sum(1).mean())


@hookimpl
def learnforge_validators() -> dict[str, type[Validator]]:
    return {"infomax": InfoMax}
