"""What the report says of kinds of stages that plugins bring, out of what they measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from learnforge.report import Picture, Section, StageSummary
from learnforge_kit.measured import Assessment, OnTest, spell_score
from learnforge_plugins.reports import figures
from learnforge_plugins.reports.spelling import further_words, most_wrong_pictures, right_words

LONGEST = 60
"""Characters of a text among metrics that stands in the table."""


def other_section(stage: StageSummary) -> Section:
    """Return the section of a stage: a row for each number and short text that it measured, and what is drawn
    of built-in stages where it measured the same by the same names.
    """
    method = f" by {stage.method['use']}" if stage.method else ""
    judged = Assessment.of(stage.metrics) if OnTest.is_in(stage.metrics) else None
    classes = stage.task.get("classes", ())
    drawn: list[Any] = []
    pictures: list[Picture] = []
    if _is_history(stage.metrics.get("history")):
        drawn.append(figures.curves(stage.metrics["history"]))
    with suppress(TypeError, ValueError, LookupError):  # a stranger's may be of another form
        if judged is not None and judged.confusion is not None:
            drawn.append(figures.confusion(judged.confusion, classes))
        if judged is not None and judged.confidence is not None:
            drawn.append(figures.reliability(judged.confidence.reliability))
            pictures = [*most_wrong_pictures(judged, classes)]
    return Section(
        f"{stage.name}: {stage.kind}{method}",
        "" if judged is None else further_words(judged),
        ("what", "measured"),
        [*_rows(stage.metrics)],
        drawn,
        pictures,
        "The most confident mistakes on test images:" if pictures else "",
    )


def other_verdict(stage: StageSummary) -> str:
    """Say how the network does that a stage hands on, where it tells."""
    if not OnTest.is_in(stage.metrics):
        return f"{stage.name!r}, of the kind {stage.kind}, is finished."
    own = OnTest.of(stage.metrics)
    words = right_words(own, stage)
    return f"{stage.name!r}, of the kind {stage.kind}, hands on a network that gets {words}."


def _rows(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in metrics.items():
        words = name.replace("_", " ")
        if isinstance(value, bool) or (isinstance(value, str) and len(value) <= LONGEST):
            yield words, str(value)
        elif isinstance(value, int):
            yield words, f"{value:,}"
        elif isinstance(value, float):
            yield words, spell_score("accuracy", value) if name.endswith("accuracy") else f"{value:.4g}"


def _is_history(value: Any) -> bool:
    """Tell whether a value is like `fit`'s: {training: what was measured after each epoch}."""
    if not isinstance(value, Mapping) or not value:
        return False
    entries = [entry for own in value.values() if isinstance(own, list) for entry in own]
    is_list = all(isinstance(own, list) for own in value.values())
    return is_list and all(isinstance(entry, Mapping) and "loss" in entry for entry in entries)
