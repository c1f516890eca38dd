"""The scaffold: writes a complete package for a plugin, which installs and whose tests pass untouched."""
