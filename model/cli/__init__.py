"""One file per verb of `python -m model`: `configure` for its parser, `run` with what was parsed."""
