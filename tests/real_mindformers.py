"""Where the real MindFormers is, which tests run as a worker; `make test` installs it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PYTHON", "why_no_mindformers"]

_HOME = Path(__file__).parents[1] / ".venv-mindformers"
PYTHON = _HOME / "bin" / "python"


def why_no_mindformers() -> str:
    """Why MindFormers cannot be run here; empty if it can."""
    # Made last, so that an environment that was only begun does not count.
    return "" if (_HOME / ".installed").exists() else f"{_HOME.name} is not installed (make test does)"
