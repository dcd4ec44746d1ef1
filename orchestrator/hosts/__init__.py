"""Connections to hosts, and sessions with their agents."""
