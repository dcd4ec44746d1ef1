"""The control node's side of a run: starting it on all hosts, watching it, and one record of both."""
