"""Built-in recipes, run by name: `learnforge run digits`."""
