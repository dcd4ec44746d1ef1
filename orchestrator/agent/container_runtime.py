"""Calls of a container runtime, each with a time limit: what is there, and the removal of what is left.

A container is known by the id that its runtime wrote down when it was made, or by its labels; never by name.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from orchestrator.agent import processes

__all__ = ["Call", "call", "environment", "kept_id", "remove", "remove_all"]

_ID = re.compile(r"[0-9a-f]{12,64}")
# Of what one says the last part is kept; who says so much more is ill, and is ended.
_LONGEST, _MOST, _PIECE = 1 << 16, 8 << 20, 1 << 14
_SILENT = "does not answer within {:g} s"
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
        return Call(None, "", f"no time was left for `{' '.join(argv[:2])}`")
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
    ends, what = time.monotonic() + timeout, f"`{' '.join(argv[:2])}`"
    output, trouble = _talk(process, stdin, ends)
    if not trouble:
        try:
            process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            trouble = _SILENT
    if trouble:
        processes.signal_group(process.pid, signal.SIGKILL)
        _let_go(process)
        return Call(None, "", f"{what} {trouble.format(round(timeout, 1))}")
    return Call(process.returncode, output.decode("utf-8", "replace"))


def _talk(process: subprocess.Popen[bytes], stdin: bytes, ends: float) -> Tuple[bytes, str]:
    """Tell it that and hear it to the end; the last of what it says, or why it is heard no longer."""
    assert process.stdin is not None and process.stdout is not None
    output, heard, left = b"", 0, memoryview(stdin)
    with selectors.DefaultSelector() as selector, process.stdout, contextlib.closing(process.stdin):
        selector.register(process.stdout, selectors.EVENT_READ)
        if left:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        while (patience := ends - time.monotonic()) > 0:
            ready = [key.fileobj for key, _ in selector.select(patience)]
            if process.stdin in ready:
                with contextlib.suppress(BlockingIOError):
                    try:
                        left = left[os.write(process.stdin.fileno(), left[:_PIECE]) :]
                    except BrokenPipeError:  # it reads no more
                        left = left[:0]
                if not left:
                    selector.unregister(process.stdin)
                    process.stdin.close()
            if process.stdout in ready:
                piece = os.read(process.stdout.fileno(), _PIECE)
                if not piece:
                    return output, ""
                heard += len(piece)
                if heard > _MOST:
                    return b"", f"says more than {_MOST >> 20} MiB"
                output = (output + piece)[-_LONGEST:]
    return b"", _SILENT


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


def remove_all(runtime: str, labels: Mapping[str, str], timeout: float, ends: float = math.inf) -> str:
    """The same of every container that has all of these labels; no call lasts beyond `ends`."""
    filters = [f"--filter=label={name}={value}" for name, value in labels.items()]
    argv = [runtime, "ps", "--all", "--quiet", "--no-trunc", *filters]
    listed = call(argv, min(timeout, ends - time.monotonic()))
    if listed.code != 0:
        return listed.why
    ids: List[str] = [word for word in listed.output.split() if _ID.fullmatch(word)]
    troubles = [remove(runtime, each, min(timeout, ends - time.monotonic())) for each in ids]
    return next(filter(None, troubles), "")
