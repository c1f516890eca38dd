"""Hooks that the caller adds in Python: objects or modules of this process alone."""

from __future__ import annotations

from typing import Any

from learnforge import hookspecs
from learnforge.errors import PluginError
from learnforge.plugins.found import Plugin
from learnforge.plugins.identity import ADDED
from learnforge.plugins.loading import Loader


def add_hooks(loader: Loader, hooks: Any) -> None:
    """Register hooks; see `Plugins.add`.

    Raises:
        PluginError: They implement no hook, an unknown one, or one that acts in worker processes; or they
            cannot be hashed.
    """
    name = getattr(hooks, "__name__", type(hooks).__name__)
    if type(hooks).__hash__ is None:
        raise PluginError(f"{name} cannot be added in Python: it must be hashable, as by `frozen(eq=False)`")
    if any(other == hooks for _, other in loader.registered):
        raise PluginError(
            f"{name} cannot be added in Python: it equals one that takes part; use `frozen(eq=False)`"
        )
    count = sum(plugin.distribution == ADDED for plugin, _ in loader.modules.values())
    loader.register(hooks, Plugin(f"{name} {count + 1}" if count else name, ADDED, ""))
    own = loader.hooks_of(hooks)
    remote = [hook for hook in own if hook in hookspecs.REMOTE]
    fault = "" if own else "it has no hook"
    if remote:
        fault = f"`{remote[0]}` acts in workers too, put it into a file"
    elif " object at 0x" in repr(hooks) and set(own) & set(hookspecs.CHANGING):
        fault = "it changes results, so its repr must show what it holds, as an attrs class's does"
    if fault:
        loader.forget(hooks)
        raise PluginError(f"{name} cannot be added in Python: {fault}")
