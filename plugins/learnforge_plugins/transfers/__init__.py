"""Built-in transfers."""
