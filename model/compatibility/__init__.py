"""MindFormers' interface."""
