"""Engines of meta-learning: batched passes over many tasks, exact for any module."""
