"""Forms of tasks."""
