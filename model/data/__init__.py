"""Records and tokens."""
