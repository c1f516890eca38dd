"""How what stages measure is put into words, whatever the form of their task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from learnforge.report import Picture, StageSummary
from learnforge_kit.measured import Assessment, OnTest, spell_score


def inputs_of(stage: StageSummary) -> str:
    """Return what the inputs of a stage's task are called."""
    return "images" if stage.task.get("inputs", "bytes") == "bytes" else "examples"


def main_words(own: OnTest) -> str:
    """Spell what a form measures first on test data, named unless it is the accuracy."""
    name = "" if own.measure == "accuracy" else f"{own.measure} "
    return name + spell_score(own.measure, own.test)


def right_words(own: OnTest, stage: StageSummary, is_whole: bool = True) -> str:
    """Spell what a form measures first, in a sentence: the share that is right, where that is what it is.

    Args:
        own: What was measured.
        stage: Of which stage.
        is_whole: Say of what it is.
    """
    if own.measure == "accuracy":
        return f"{main_words(own)}{f' of the test {inputs_of(stage)}' * is_whole} right"
    return main_words(own) + f" on test {inputs_of(stage)}" * is_whole


def further_words(own: OnTest) -> str:
    """Spell what a form measures beside what comes first."""
    found = [
        f"{name} {value:.4g}" for name, value in (own.test_measures or {}).items() if name != own.measure
    ]
    return f"Also on test data: {', '.join(found)}." if found else ""


def most_wrong_pictures(m: Assessment, classes: Sequence[str]) -> Iterator[Picture]:
    """Show test images that are taken for another class with the most confidence."""
    for own in m.confidence.most_wrong if m.confidence else ():
        if not own["image"]:
            continue
        true, taken = classes[own["true"]], classes[own["predicted"]]
        yield Picture(own["image"], f"{true} taken for {taken}, confidence {own['confidence']:.1%}")
