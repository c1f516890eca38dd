"""The plugins of a run: found from metadata, imported when they are used, and kept from harming the host."""
