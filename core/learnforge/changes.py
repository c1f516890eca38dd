"""Changes to a network since its model or space built it: made through here, they are written down with it,
so that an artifact can make them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from learnforge.errors import StageError

if TYPE_CHECKING:
    from learnforge.kinds.change import Change
    from learnforge.spec import TaskInfo

_RECORD = "_learnforge_changes"
"""Attribute of a network that lists its changes. An attribute, so that copies of the network have it too."""


def apply_change(network: nn.Module, change: Change, task: TaskInfo) -> nn.Module:
    """Return the network with a change made to it, and written down.

    Methods and stages make every change that outlasts them this way: what is not written down is not there
    when the artifact is loaded, and the stage is refused.

    Args:
        network: The network; it may be changed in place.
        change: The change.
        task: What the network is for after the change.

    Raises:
        StageError: The change returns no network, or cannot be made to this one.
    """
    before = changes_of(network)
    changed = change.apply(network, task)
    if not isinstance(changed, nn.Module):
        raise StageError(f"the change {change.name!r} must return a network, it returned {changed!r}")
    is_repeated = change.follows_task and before[-1:] == (change,)
    return with_changes(changed, before if is_repeated else (*before, change))


def changes_of(network: nn.Module) -> tuple[Change, ...]:
    """Return the changes that were made to a network, first one first."""
    found: tuple[Change, ...] = getattr(network, _RECORD, ())
    return found


def with_changes(network: nn.Module, changes: tuple[Change, ...] = ()) -> nn.Module:
    """Return the network as one to which just these changes were made; without any, what it is now is what
    its caller will bring.
    """
    setattr(network, _RECORD, changes)
    return network
