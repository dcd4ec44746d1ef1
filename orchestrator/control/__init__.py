"""Starting, watching, judging and stopping runs."""
