"""Options: plain data in, frozen objects out, every error at once."""
