"""Checks of hosts before a launch."""
