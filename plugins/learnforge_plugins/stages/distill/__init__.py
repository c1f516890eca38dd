"""Distillation: the kind of stage `distill` and the loop around a distiller."""
