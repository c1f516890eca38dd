"""Built-in zero-cost scores."""
