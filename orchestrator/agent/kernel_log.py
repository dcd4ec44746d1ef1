"""The kernel's lines since the launch that can be the cause of a failure, with absolute times.

They are read in the kernel's own buffer (/dev/kmsg, else `dmesg`) and, where that does not reach back to the
launch or may not be read, in the journal, else in syslog's files. Many systems let only root read the first
(`kernel.dmesg_restrict`): what could not be read is said. Patterns: kernel sources, Ascend's driver, and the
entries of FaultDiag's table for the operating system.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import time
from pathlib import Path
from signal import SIGKILL
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from orchestrator.agent.line_times import syslog_time, time_of
from orchestrator.core.safe_open import read_end

__all__ = ["KernelLog", "Line", "Sources", "kernel_lines", "matters"]

_MOST_BYTES = 8 << 20
_MOST_LINES = 240
_MOST_COMPARED = 2000
_OF_ONE_SHAPE = 5
_WIDTH = 400
_SECONDS = 6.0
# The clock of the kernel's lines is not set by NTP: it drifts with the time since the boot.
_SLACK, _DRIFT, _MOST_SLACK = 2.0, 2e-5, 60.0

_MATTERS = re.compile(
    "|".join(
        f"(?:{text})"
        for text in (
            # Memory.
            r"[Oo]ut of memory|\boom[-_]kill|\bKilled process \d|killed as a result of limit of",
            r"\bmemory: usage \d+kB, limit|page allocation failure|alloc pid failed|fork rejected by pids",
            # Disks and file systems.
            r"I/O error|critical (?:medium|target) error|No space left on device|[Rr]emounting filesystem",
            r"(?:EXT[234]-fs|XFS|BTRFS|JBD2|F2FS)\b.*(?:error|[Cc]orrupt|[Ss]hut.?down|abort|metadata)",
            r"\bnfs: server \S+ not responding|LustreError|\bnvme\S* .*(?:timeout|controller is down)",
            # Processors, memory chips, buses.
            r"blocked for more than|lockup|LOCKUP|detected stall|\[Hardware Error\]|[Mm]achine [Cc]heck",
            r"\bEDAC\b.*(?:error|\b[UC]E\b)|\bRAS:|PCIe Bus Error|\bAER:|[Tt]emperature above threshold",
            r"Kernel panic|\bOops\b|\bBUG:|segfault at|general protection|\btraps: |SEA exception",
            # Networks.
            r"nf_conntrack.*table full|[Ll]ink (?:is )?[Dd]own|NETDEV WATCHDOG",
            # Ascend's driver; its notes of each start of a device are no news.
            r"\[ascend\](?!.*\[INFO\])|\[ascend\].*(?:fail|time ?out|lost|abnormal|error|fault|not resp)",
            r"\b(?:drv_soft_fault|devmm|hdcdrv|pcivnic)\w*.*(?:fail|time_?out|lost|abnormal|error|fault)",
            r"Device irq not resp|Device is abnormal|DMA timeout|Can not query device_pid by host_pid",
        )
    )
)
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")
_KMSG = re.compile(r"(\d+),\d+,(\d+),[^;]*;(.*)")
_DMESG = re.compile(r"(?:<(\d+)>)?\[ *(\d+\.\d+)\] ?(.*)")
_JOURNAL = re.compile(r"(\d+\.\d+) \S+ kernel(?:\[\d+\])?: (.*)")
_TAGGED = re.compile(r"\bkernel(?:\[[^\]]*\])?(?:: ?|\|)(.*)")

Run = Callable[[Sequence[str], float], Tuple[str, str]]


class Line(NamedTuple):
    """A line, and when it was written by this host's clock, where that is known."""

    text: str
    time: Optional[float] = None


class KernelLog(NamedTuple):
    """The lines that matter, in the order of their times, and what could not be read, a line each."""

    lines: Tuple[Line, ...]
    unread: Tuple[str, ...]


def _run(argv: Sequence[str], seconds: float) -> Tuple[str, str]:
    """What a program prints, and why it did not do its work; with its group it is killed when time is up."""
    try:
        with subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": f"{os.environ.get('PATH', '')}:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"},
            cwd="/",
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, SIGKILL)
                return "", f"no answer within {seconds:g} s"
    except OSError as error:
        return "", error.strerror or str(error)
    text = output[-_MOST_BYTES:].decode("utf-8", "replace")
    if process.returncode:
        words = errors.decode("utf-8", "replace").strip().splitlines()
        return text, (words[-1] if words else f"it ended with exit code {process.returncode}")[:_WIDTH]
    return text, ""


class Sources(NamedTuple):
    """Where the kernel's lines are looked for."""

    kmsg: str = "/dev/kmsg"
    files: Tuple[str, ...] = ("/var/log/messages", "/var/log/kern.log", "/var/log/syslog")
    run: Run = _run


def matters(text: str) -> bool:
    """Whether a line of the kernel's can be the cause of a failure, or follow from it."""
    return _MATTERS.search(text) is not None


def kernel_lines(
    since: float,
    sources: Sources = Sources(),  # noqa: B008  # a value that nobody can change
    *,
    now: Optional[float] = None,
    uptime: Optional[float] = None,
) -> KernelLog:
    """The lines since `since`, of the host's clock. `uptime` are the seconds for which the kernel runs."""
    now = time.time() if now is None else now
    uptime = time.monotonic() if uptime is None else uptime
    since -= min(_MOST_SLACK, _SLACK + _DRIFT * uptime)
    unread: List[str] = []
    ring = _ring(sources, now - uptime, unread)
    found = [line for line in ring if (line.time or now) >= since and matters(line.text)]
    oldest = min((line.time for line in ring if line.time is not None), default=now)
    # A kernel that was started since, or has overwritten its oldest lines, tells only the end of it.
    if not ring or oldest > since:
        stored = [line for line in _stored(sources, since, now, unread) if matters(line.text)]
        more = [line for line in stored[-_MOST_COMPARED:] if _is_new(line, found)]
        found = sorted([*more, *found], key=lambda line: line.time or 0.0)
    return KernelLog(tuple(_bounded(found)), tuple(unread))


def _ring(sources: Sources, booted: float, unread: List[str]) -> List[Line]:
    """The kernel's buffer, all of it."""
    try:
        return list(_of_kmsg(_read_kmsg(sources.kmsg), booted))
    except OSError as error:
        why = error.strerror or str(error)
    text, problem = sources.run(["dmesg"], _SECONDS)
    if text:
        return list(_of_dmesg(text, booted))
    unread.append(f"the kernel's buffer: {sources.kmsg}: {why}; dmesg: {problem or 'it says nothing'}")
    return []


def _read_kmsg(path: str) -> str:
    """What is in the buffer now. A read gives one record; EPIPE says that it was overwritten meanwhile."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    parts: List[bytes] = []
    size, until = 0, time.monotonic() + _SECONDS
    try:
        while size < _MOST_BYTES and time.monotonic() < until:
            try:
                part = os.read(handle, 1 << 14)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue
                if error.errno == errno.EAGAIN:
                    break
                raise
            if not part:
                break
            parts.append(part)
            size += len(part)
    finally:
        os.close(handle)
    return b"".join(parts).decode("utf-8", "replace")


def _of_kmsg(text: str, booted: float) -> Iterator[Line]:
    """Format: Documentation/ABI/testing/dev-kmsg of Linux. What programs have put there is left out."""
    for record in text.splitlines():
        found = _KMSG.match(record)
        if found is not None and int(found[1]) >> 3 == 0:
            yield Line(_unescaped(found[3])[:_WIDTH], booted + int(found[2]) / 1e6)


def _of_dmesg(text: str, booted: float) -> Iterator[Line]:
    for line in text.splitlines():
        found = _DMESG.match(line)
        if found is not None and (found[1] is None or int(found[1]) >> 3 == 0):
            yield Line(found[3][:_WIDTH], booted + float(found[2]))


def _stored(sources: Sources, since: float, now: float, unread: List[str]) -> List[Line]:
    """What is kept over a restart: the journal, else syslog's files."""
    call = ["journalctl", "_TRANSPORT=kernel", f"--since=@{int(since)}", "-o", "short-unix", "-n", "20000"]
    text, problem = sources.run([*call, "--no-pager", "-q"], _SECONDS)
    found = [
        Line(match[2][:_WIDTH], float(match[1])) for match in map(_JOURNAL.match, text.splitlines()) if match
    ]
    if found:
        return found
    problems = [f"journalctl: {problem}"] if problem else []
    has_read = bool(text) and not problem
    for path in sources.files:
        try:
            data = read_end(Path(path), Path(path).parent, _MOST_BYTES)
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
            continue
        has_read = True
        found += _of_file(data.decode("utf-8", "replace"), since, now)
    if not has_read and problems:
        unread.append(f"the kernel's stored lines: {'; '.join(problems)}")
    return found


def _of_file(text: str, since: float, now: float) -> Iterator[Line]:
    for line in text.splitlines():
        tagged = _TAGGED.search(line, 0, 200)
        if tagged is None and "[ascend]" not in line:
            continue
        said = tagged[1] if tagged is not None else line
        moment = syslog_time(line, now) if tagged is not None else time_of(line)
        if moment is None or moment >= since:
            stamped = _DMESG.match(said.lstrip("|"))
            yield Line((stamped[3] if stamped is not None else said)[:_WIDTH], moment)


def _is_new(line: Line, known: Iterable[Line]) -> bool:
    """Whether no other source has the same line of about the same time."""
    return not any(
        line.text == other.text and abs((line.time or 0.0) - (other.time or 0.0)) < _MOST_SLACK
        for other in known
    )


def _unescaped(text: str) -> str:
    """In this file the kernel writes what is no printable ASCII as `\\x1b`; shown it is so anyway."""
    return text.replace("\\x0a", " ")


def _bounded(lines: Iterable[Line]) -> Iterator[Line]:
    """A flood of one kind does not hide the others: of equal ones, but for numbers, the first few and the
    last; of all the first half and the last."""
    taken, last = [], {}
    counts: Dict[str, int] = {}
    for line in lines:
        shape = _NUMBERS.sub("#", line.text)
        counts[shape] = counts.get(shape, 0) + 1
        if counts[shape] < _OF_ONE_SHAPE:
            taken.append(line)
        else:
            last[shape] = line
    every = sorted([*taken, *last.values()], key=lambda line: line.time or 0.0)
    half = _MOST_LINES // 2
    yield from every if len(every) <= _MOST_LINES else [*every[:half], *every[-half:]]
