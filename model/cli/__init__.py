"""One file per verb of `python -m model`: HELP, `configure` for its parser, `run` with what was parsed."""
