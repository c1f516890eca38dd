"""Discovery: which plugins there are, from entry-point metadata alone, and which of them a run may use.

Nothing here imports a plugin, pluggy or torch, so `learnforge plugins` costs what reading the metadata costs.
"""

from learnforge.discovery.choice import PluginChoice, PluginFile, Standing, survey
from learnforge.discovery.found import GROUP, KINDS, Plugin, installed

__all__ = ["GROUP", "KINDS", "Plugin", "PluginChoice", "PluginFile", "Standing", "installed", "survey"]
