"""Built-in changes of networks."""
