"""Built-in trackers: plugins of hooks alone, which run when they are enabled."""
