"""Formats of checkpoint and strategy files."""
