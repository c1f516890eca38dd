"""Recipes that run by name: `learnforge run digits`."""
