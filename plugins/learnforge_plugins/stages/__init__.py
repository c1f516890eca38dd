"""The kinds of stage that learnforge brings."""
