"""Ranks, groups, pipelines."""
