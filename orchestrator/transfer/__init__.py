"""Checkpoints from run to file, and from file to hosts."""
