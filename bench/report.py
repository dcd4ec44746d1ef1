"""What the benches share: a measured process, a series of measurements, and a table of them."""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Goal", "Sample", "Series", "Table", "cpu_seconds", "measure", "print_json"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One process: wall time and its own CPU time with that of the children it waited for, in seconds.

    `peak` is the most memory it had, `read` what it read of files and pipes; bytes, 0 where not known.
    """

    wall: float
    cpu: float
    peak: int = 0
    read: int = 0


@dataclass(slots=True)
class Series:
    """The samples of one thing that is measured; `scale` turns a part that was timed into the whole."""

    name: str
    scale: float = 1.0
    samples: list[Sample] = field(default_factory=list)

    @property
    def wall(self) -> float:
        return statistics.median(sample.wall for sample in self.samples) * self.scale

    @property
    def cpu(self) -> float:
        return statistics.median(sample.cpu for sample in self.samples) * self.scale

    @property
    def peak(self) -> int:
        return max(sample.peak for sample in self.samples)

    @property
    def read(self) -> int:
        return max(sample.read for sample in self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        walls = [sample.wall * self.scale for sample in self.samples]
        return min(walls), max(walls)

    def to_json(self) -> dict[str, Any]:
        walls, cpus = [sample.wall for sample in self.samples], [sample.cpu for sample in self.samples]
        measured = {"wall": self.wall, "cpu": self.cpu, "peak": self.peak, "read": self.read}
        return {**measured, "scale": self.scale, "walls": walls, "cpus": cpus}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and the bound it is to keep."""

    name: str
    value: float
    bound: float
    at_least: bool = False
    unit: str = ""

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "holds" if self.holds else "MISSED"
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.name:<40} {self.value:8.2f}{unit}  (goal {sign} {self.bound:g}{unit})  {verdict}"

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "bound": self.bound, "at_least": self.at_least, "holds": self.holds}


class Table:
    """Columns as wide as what is in them; the first one is text, the others are numbers."""

    def __init__(self, *header: str) -> None:
        self._rows = [header]

    def add(self, *cells: str) -> None:
        self._rows.append(cells)

    def print(self) -> None:
        widths = [max(len(cell) for cell in column) for column in zip(*self._rows, strict=True)]
        for row in self._rows:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            print("  ".join([row[0].ljust(widths[0]), *cells]))


def measure(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    expect: int | None = 0,
    timeout: float = 900.0,
) -> Sample:
    """Run a process to its end. RuntimeError, with the end of its output, for an unexpected exit code."""
    with tempfile.TemporaryFile() as output:
        begin = time.monotonic()
        process = subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        usage, read = _wait(process, begin + timeout)
        wall = time.monotonic() - begin
        if expect is not None and process.returncode != expect:
            output.seek(0)
            said = output.read()[-2000:].decode("utf-8", "replace")
            raise RuntimeError(f"{' '.join(argv)[:200]}: exit code {process.returncode}\n{said}")
    # Linux counts the resident memory in kB.
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, read)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[Any, int]:
    # wait4 and not subprocess: it tells the resources of this one child. A pidfd, so that the time is exact.
    handle = os.pidfd_open(process.pid)
    try:
        ready, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        read = _bytes_read(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return usage, read
    finally:
        os.close(handle)


def _bytes_read(pid: int) -> int:
    """What a process that has just ended, and was not waited for yet, has read; see proc(5)."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return int(next(line for line in lines if line.startswith("rchar:")).split()[1])


def cpu_seconds(pid: int) -> float:
    """The CPU time of a living process so far, see proc(5); 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def print_json(data: Mapping[str, Any]) -> None:
    print(json.dumps(data, indent=2))
