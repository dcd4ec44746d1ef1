"""Checkpoint formats and slices: NumPy and the standard library only, no network."""
