"""Methods whose networks differ from what their models build."""
