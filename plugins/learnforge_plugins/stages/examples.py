"""Checks on networks that are still to be found, by examples of their spaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import evolve

from learnforge.artifact import Artifact
from learnforge.errors import Problem
from learnforge.kinds.space import Space
from learnforge.plugins.registry import Plugins

TRIED = 10
"""Random designs that stand for a space; what is wrong with all of them is wrong with the recipe."""


def faults_of_all(
    stand_ins: Sequence[Artifact], plugins: Plugins, check: Callable[[Sequence[Artifact]], list[Problem]]
) -> list[Problem]:
    """Return what a check finds in networks; for those that a search is still to find, what it finds in every
    one of a few random designs.

    Args:
        stand_ins: What the networks will be built from.
        plugins: Where spaces are looked up.
        check: Called with artifacts in the place of `stand_ins`, all of which can be built.
    """
    found: list[Problem] = []
    for examples in zip(*(_examples(artifact, plugins) for artifact in stand_ins), strict=True):
        found = check(examples)
        if not found or all(artifact.is_buildable for artifact in stand_ins):
            return found
    return found


def _examples(artifact: Artifact, plugins: Plugins) -> list[Artifact]:
    if artifact.is_buildable:
        return [artifact] * TRIED
    from learnforge_plugins.stages.search.describe import random_designs  # most recipes need none of it

    space: Space = plugins.resolve("space", artifact.spec.table, "space", [])
    designs = random_designs(space, TRIED, 0)
    return [evolve(artifact, spec=evolve(artifact.spec, design=dict(design))) for design in designs]
