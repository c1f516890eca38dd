"""Scripts that learnforge writes beside what it exports; they run without it."""
