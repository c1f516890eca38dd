"""Accuracy on the labelled task: what can be measured for certain, though not of the new task.

    score = accuracy on the labelled task's validation images

Reference:
    Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand & Lempitsky, Domain-adversarial
    training of neural networks, 2016 (appendix B compares it with reverse validation). arXiv:1505.07818
"""

from __future__ import annotations

from attrs import frozen

from learnforge import Evidence, Validator, hookimpl


@frozen
class SourceAccuracy(Validator):
    """Accuracy on the labelled task's validation images, in [0, 1]."""

    def score(self, evidence: Evidence) -> float:
        return float((evidence.source.argmax(1) == evidence.source_labels).double().mean())


@hookimpl
def learnforge_validators() -> dict[str, type[Validator]]:
    return {"source-accuracy": SourceAccuracy}
