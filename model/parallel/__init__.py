"""Parallelism: the mesh of ranks, collectives, messages between pipeline stages and their schedule."""
