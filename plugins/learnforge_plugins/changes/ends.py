"""Changes at both ends of a network: another head, another stem, an earlier end. Methods make them; they are
registered so that artifacts can make them again.
"""

from __future__ import annotations

from learnforge import Change, hookimpl
from learnforge_kit import Cut, NewHead, NewStem


@hookimpl
def learnforge_changes() -> dict[str, type[Change]]:
    return {change.name: change for change in (NewHead, NewStem, Cut)}
