"""Bloom in MindSpore, as the worker of one rank: train it, load it, let it answer."""
