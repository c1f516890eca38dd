"""Taking a network's last change back."""

from __future__ import annotations

from torch import nn

from learnforge.changes import changes_of, with_changes
from learnforge.errors import StageError
from learnforge.kinds.change import Change


def undo_change(network: nn.Module, change: Change) -> nn.Module:
    """Return the network with its last change taken back, what it has learnt merged into what was there.

    Raises:
        StageError: The network's last change is another one.
    """
    before = changes_of(network)
    if before[-1:] != (change,):
        last = before[-1].name if before else "none"
        raise StageError(f"only the last change can be undone, which is {last}, not {change.name!r}")
    return with_changes(change.undo(network), before[:-1])
