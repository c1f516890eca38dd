"""Plugins for learnforge, one in each module."""
