"""Transfer: the kind of stage `transfer`, the holes that strategies and validators fill, and the loop around
them.
"""

from __future__ import annotations

from learnforge.stages.transfer.domain import DomainAdaptation, adversarial_strength, reverse_gradient
from learnforge.stages.transfer.freezing import freeze, set_training
from learnforge.stages.transfer.source import untrained_words
from learnforge.stages.transfer.stage import TransferStage, learnforge_stages
from learnforge.stages.transfer.strategy import (
    Criterion,
    DirectTransfer,
    Phase,
    PhasedTransfer,
    Transfer,
)
from learnforge.stages.transfer.validator import Evidence, Validator

__all__ = [
    "Criterion",
    "DirectTransfer",
    "DomainAdaptation",
    "Evidence",
    "Phase",
    "PhasedTransfer",
    "Transfer",
    "TransferStage",
    "Validator",
    "adversarial_strength",
    "freeze",
    "learnforge_stages",
    "reverse_gradient",
    "set_training",
    "untrained_words",
]
