"""Methods that are called like those of others."""
