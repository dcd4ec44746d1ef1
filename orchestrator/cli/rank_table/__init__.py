"""The verbs of `orchestrate rank-table`, one file each."""
