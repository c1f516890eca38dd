"""The scaffold: writes a complete package for a plugin, which installs and whose tests pass untouched."""

from learnforge.scaffold.package import TEMPLATES, write_package

__all__ = ["TEMPLATES", "write_package"]
