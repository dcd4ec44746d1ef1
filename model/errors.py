"""The errors of a worker, so that `__main__` knows all of them.

    ModelError            2   a config, data file, tokenizer or checkpoint that cannot be used
      TrainingError       1   the run itself failed: a loss that is no number, ranks that disagree

The number is the exit code of the process.
"""

from __future__ import annotations

from orchestrator.core.errors import one_line

__all__ = ["ModelError", "TrainingError"]


class ModelError(Exception):
    """What went wrong, where, and what to do about it; one line."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        return one_line(" ".join(self.where.split()), " ".join(self.what.split()), self.remedy)

    def lines(self) -> list[str]:
        """The message as the command line prints it."""
        return [str(self)]


class TrainingError(ModelError):
    """The input was fine and the run failed all the same."""

    exit_code = 1
