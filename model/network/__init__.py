"""The network of Bloom, its dropout and its loss."""
