"""Calls of a container runtime, each with a time limit: what is there, and the removal of what is left.

A container is known by the id that its runtime wrote down when it was made, or by its labels; never by name.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from orchestrator.agent import processes
from orchestrator.agent.container_command import ATTEMPT_LABEL, RUN_LABEL

__all__ = ["Call", "call", "environment", "kept_id", "remove", "remove_all"]

_ID = re.compile(r"[0-9a-f]{12,64}")
_LONGEST = 1 << 16
# Where runtimes are that a shell which is no login shell may not find.
_FOLDERS = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"


class Call(NamedTuple):
    """What a runtime has said; `code` is None where it could not be started, or was given up."""

    code: Optional[int]
    output: str
    trouble: str = ""

    @property
    def why(self) -> str:
        """The last line of what it said, or why it said nothing."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return self.trouble or (lines[-1] if lines else f"exit code {self.code}")


def environment() -> Dict[str, str]:
    """What a runtime runs in: the account's own environment, by which it finds its daemon or its storage."""
    path = os.environ.get("PATH", "")
    return {**os.environ, "PATH": f"{path}:{_FOLDERS}" if path else _FOLDERS}


def call(argv: Sequence[str], timeout: float, stdin: bytes = b"") -> Call:
    """Run it to its end, or kill it with its group when the time is over."""
    if timeout <= 0:
        return Call(None, "", f"no time was left for `{argv[0]} {argv[1]}`")
    try:
        process = subprocess.Popen(
            list(argv),
            cwd="/",
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return Call(None, "", f"{argv[0]}: {getattr(error, 'strerror', None) or error}")
    try:
        output, _ = process.communicate(stdin, timeout)
    except subprocess.TimeoutExpired:
        processes.signal_group(process.pid, signal.SIGKILL)
        _let_go(process)
        return Call(None, "", f"`{argv[0]} {argv[1]}` does not answer within {round(timeout, 1):g} s")
    return Call(process.returncode, output[-_LONGEST:].decode("utf-8", "replace"))


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """What it has started may hold the pipe; nobody waits for that."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)


def kept_id(cid_file: Path) -> Optional[str]:
    """The id that a runtime wrote down; None where there is none (yet)."""
    try:
        with open(cid_file) as file:
            text = file.read(128).strip()
    except (OSError, ValueError):
        return None
    return text if _ID.fullmatch(text) else None


def remove(runtime: str, container: str, timeout: float) -> str:
    """Kill and remove a container by its id; why it may still be there, "" where it is not."""
    done = call([runtime, "rm", "--force", container], timeout)
    gone = done.code == 0 or "no such container" in done.output.lower()
    return "" if gone else done.why


def remove_all(runtime: str, run_id: str, attempt: str, timeout: float, ends: float = math.inf) -> str:
    """The same of every container with the labels of this attempt; no call lasts beyond `ends`."""
    filters = [f"--filter=label={RUN_LABEL}={run_id}", f"--filter=label={ATTEMPT_LABEL}={attempt}"]
    argv = [runtime, "ps", "--all", "--quiet", "--no-trunc", *filters]
    listed = call(argv, min(timeout, ends - time.monotonic()))
    if listed.code != 0:
        return listed.why
    ids: List[str] = [word for word in listed.output.split() if _ID.fullmatch(word)]
    troubles = [remove(runtime, each, min(timeout, ends - time.monotonic())) for each in ids]
    return next(filter(None, troubles), "")
