"""Costs of networks and of their layers."""
