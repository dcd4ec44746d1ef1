"""The networks of the families, and their loss."""
