"""A worker's word that its work is done.

MindSpore closes its connections when the interpreter ends. Its cluster client then frees the one to the
scheduler as soon as the answer to its goodbye is there, while the thread that received the answer may still
read from it: SIGSEGV (MindSpore 2.10, CPU: one rank in 30 on a busy machine). Only the exit code is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from orchestrator.core.paths import RunDir

__all__ = ["marked_done"]


@contextlib.contextmanager
def marked_done(rank: int, home: Path = Path()) -> Iterator[None]:
    """Leave the mark of `AttemptDir.done` in `home` when the block has ended well, and only then."""
    mark = RunDir(home).attempt.done(f"rank_{rank}")
    mark.unlink(missing_ok=True)
    yield
    with contextlib.suppress(OSError):  # a full disk: the work is no less done, but a crash will count
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
