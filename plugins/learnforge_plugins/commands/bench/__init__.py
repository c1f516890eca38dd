"""Comparisons of methods on a benchmark."""
