"""Meta-learning: the kind of stage `meta` and its outer loop."""
