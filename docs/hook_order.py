"""The order in which implementations of a hook are called."""

from __future__ import annotations

from collections.abc import Generator

from learnforge import Plugins, hookimpl

ORDER: list[str] = []


class Early:
    """Called before those without a wish."""

    @hookimpl(tryfirst=True)
    def learnforge_stage_started(self, stage: str) -> None:
        ORDER.append("early")


class Late:
    """Called after those without a wish."""

    @hookimpl(trylast=True)
    def learnforge_stage_started(self, stage: str) -> None:
        ORDER.append("late")


class Usual:
    """Called in between."""

    @hookimpl
    def learnforge_stage_started(self, stage: str) -> None:
        ORDER.append("usual")


class Around:
    """Wraps all the others: sees the call first and its results last, and may return other results."""

    @hookimpl(wrapper=True)
    def learnforge_stage_started(self, stage: str) -> Generator[None, list[None], list[None]]:
        ORDER.append("before all")
        results = yield
        ORDER.append("after all")
        return results


def main() -> list[str]:
    plugins = Plugins()
    for own in (Late(), Around(), Early(), Usual()):
        plugins.add(own)
    ORDER.clear()
    plugins.hook.learnforge_stage_started(stage="search", kind="search")
    return ORDER  # before all, early, usual, late, after all
