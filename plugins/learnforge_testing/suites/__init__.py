"""One conformance suite for each kind of plugin."""
