"""Built-in tabular benchmarks."""
