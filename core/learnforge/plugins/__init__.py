"""The plugins of a run: imported when they are used, and kept from harming the host."""

from learnforge.discovery import Plugin, PluginChoice, PluginFile, Standing, installed
from learnforge.plugins.identity import Identity, identify, spell
from learnforge.plugins.registry import Plugins

__all__ = [
    "Identity",
    "Plugin",
    "PluginChoice",
    "PluginFile",
    "Plugins",
    "Standing",
    "identify",
    "installed",
    "spell",
]
