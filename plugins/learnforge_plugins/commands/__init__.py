"""The commands that learnforge brings beside `run`, `check`, `plugins`, `hooks` and `doctor`."""
