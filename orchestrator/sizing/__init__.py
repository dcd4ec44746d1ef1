"""Estimates of memory, traffic and time."""
