"""Built-in searchers."""
