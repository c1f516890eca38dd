"""Benchmarks of methods: what `learnforge bench` measures and shows."""
