"""Readers of tensor files that hosts need too: standard library only."""
