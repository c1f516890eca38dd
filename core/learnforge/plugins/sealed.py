"""A run's plugins as listeners see them: to look at, and not to change."""

from __future__ import annotations

from typing import Any, NoReturn

from learnforge.errors import PluginError
from learnforge.plugins.registry import Plugins


class SealedPlugins(Plugins):
    """The plugins of a run that goes on: methods can be looked up, and nothing can be added or taken out.

    Args:
        plugins: The plugins.
    """

    def __init__(self, plugins: Plugins):
        self.__dict__.update(vars(plugins))

    @property
    def manager(self) -> NoReturn:
        """Refuse: it can change which plugins take part.

        Raises:
            PluginError: Always.
        """
        self._refuse()

    def add(self, hooks: Any) -> NoReturn:
        """Refuse.

        Raises:
            PluginError: Always.
        """
        self._refuse()

    def load_hooks(self, name: str) -> NoReturn:
        """Refuse.

        Raises:
            PluginError: Always.
        """
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise PluginError("who listens to a run cannot change its plugins; enable them before it starts")
