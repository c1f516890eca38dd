"""What searchers are made of: samplers, views of a space, encodings, Pareto order."""
