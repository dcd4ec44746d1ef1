"""The network of Bloom, and its loss."""
