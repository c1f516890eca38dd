"""The kinds of plugins: one abstract class a file, with the values that it takes and gives."""
