"""Families of networks: one table each of what names, shapes, cuts, sizes and presets a family has."""
