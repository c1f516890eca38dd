"""Transfer: the kind of stage `transfer` and the loop around a strategy."""
