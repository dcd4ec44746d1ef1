"""The networks of the families, their dropout and their loss."""
