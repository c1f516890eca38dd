"""The methods that learnforge brings: one file each, registered by entry points as a stranger's are."""
