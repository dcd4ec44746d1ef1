"""The device that computes: which it is, how it is chosen, what it can."""
