"""A process that has imported what workers import, and waits: what it read is in memory when they start.

It is a program of the workers' own Python in their environment, and makes no use of a device: it sets no
context and starts nothing. It ends with its parent, whichever way that ends.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Optional, Sequence

from orchestrator.agent import processes
from orchestrator.agent.worker import tail_lines
from orchestrator.agent.worker_environment import PLOG_PATH, process_environment, with_env_script
from orchestrator.core.spare_records import Warmth

__all__ = ["WarmProcess", "require_names"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}(\.[A-Za-z_][A-Za-z0-9_]{0,63}){0,7}", re.ASCII)
_MOST_NAMES = 64
_LONGEST_LINE = 500
# What is imported writes to its standard output; the word that it is done goes to a descriptor of its own.
_PROGRAM = """\
import importlib, os, sys
word = os.dup(1)
os.dup2(2, 1)
for name in sys.argv[1:]:
    importlib.import_module(name)
os.write(word, b"ready\\n")
os.close(word)
sys.stdin.buffer.read()
"""


def require_names(names: Sequence[str]) -> None:
    """Raise ValueError for what are no names of modules, or too many."""
    if len(names) > _MOST_NAMES or not all(_NAME.fullmatch(name) for name in names):
        raise ValueError("expected names of modules")


class WarmProcess:
    """Imports `packages`; `folder` is for what it writes. Without packages there is no process."""

    def __init__(self, packages: Sequence[str], env_script: Optional[str], folder: Path) -> None:
        require_names(packages)
        self._packages, self._script, self._folder = list(packages), env_script, folder
        self._log = folder / "warm.log"
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._started = 0.0
        self.warmth = Warmth.IMPORTING if packages else Warmth.NOTHING
        self.trouble = ""
        self.seconds: Optional[float] = None

    def start(self) -> None:
        """Start it, where there is something to import. What cannot be started has failed."""
        if not self._packages:
            return
        parent, self._started = os.getpid(), time.monotonic()
        argv = [sys.executable, "-c", _PROGRAM, *self._packages]
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    argv if self._script is None else with_env_script(self._script, argv),
                    cwd=str(self._folder),
                    env=self._environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=lambda: processes.die_with_parent(signal.SIGKILL, parent),
                )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._fail(str(getattr(error, "strerror", None) or error))

    def fileno(self) -> Optional[int]:
        """What can be read when there is news; None where none is to come."""
        is_awaited = self.warmth is Warmth.IMPORTING and self._process is not None
        return (
            self._process.stdout.fileno() if is_awaited and self._process and self._process.stdout else None
        )

    def take(self) -> None:
        """Take the news: it is ready, or has ended."""
        handle = self.fileno()
        if handle is None:
            return
        if os.read(handle, 64).startswith(b"ready"):
            self.warmth, self.seconds = Warmth.READY, round(time.monotonic() - self._started, 3)
            return
        self._fail("")

    def look(self) -> None:
        """Notice that it has ended since, say for want of memory."""
        if self._process is not None and self._process.poll() is not None and self.warmth is Warmth.READY:
            self._fail("")

    def end(self) -> None:
        """End it and all that it has started."""
        if self._process is None:
            return
        processes.signal_group(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10.0)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._process = None

    def _fail(self, why: str) -> None:
        self.end()
        last = [line for line in tail_lines(self._log) if line.strip()]
        self.warmth, self.trouble = Warmth.FAILED, (why or (last or ["it has ended"])[-1])[:_LONGEST_LINE]

    def _environment(self) -> Dict[str, str]:
        own = {"PYTHONUNBUFFERED": "1"}
        defaults = {PLOG_PATH: str(self._folder / "plog")}
        return {**defaults, **process_environment(os.environ, own, self._script)}
