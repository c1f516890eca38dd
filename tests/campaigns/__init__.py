"""Campaigns against learnforge: thousands of damaged, hostile and unlucky cases, made from seeds."""
