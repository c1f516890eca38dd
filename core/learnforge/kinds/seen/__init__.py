"""What methods are handed and see: networks, episodes, engines."""
