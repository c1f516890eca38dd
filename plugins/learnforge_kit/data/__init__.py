"""Data: splits, images from files, episodes, environments."""
