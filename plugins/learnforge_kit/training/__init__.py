"""Training: the loop, its settings, losses, evaluation."""
