"""Distillation: the kind of stage `distill`, the hole that a distiller fills, and the loop around it."""

from __future__ import annotations

from learnforge.stages.distill.distiller import Criterion, Distiller, label_loss
from learnforge.stages.distill.stage import DistillStage, StudentSearch, learnforge_stages

__all__ = [
    "Criterion",
    "DistillStage",
    "Distiller",
    "StudentSearch",
    "label_loss",
    "learnforge_stages",
]
