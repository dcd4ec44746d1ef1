"""How fast `logs` begins, what it holds in memory, and how it follows, next to `tail -f` over the same SSH.

    python bench/logs.py [--hosts 8] [--size 100] [--follow 200] [--line 120] [--rounds 3] [--json]

N addresses on one sshd of our own are N hosts with one rank each, whose log is filled to `--size` MB with
lines of `--line` bytes. In each round, one after the other: `logs` to its first line, all of it, the last
lines of it; then a log grows by `--follow` MB as fast as it can be written, and in another step at 30 MB a
second, while `logs --follow` and `ssh HOST tail -f` read it, each for itself. How long a reader is behind is
from the last byte written to the last byte read. The hosts' own work shares this machine's cores in all.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.loopback import Loopback  # noqa: E402
from bench.report import Goal, Sample, Series, Table, print_json  # noqa: E402
from orchestrator.core.paths import RunDir  # noqa: E402
from orchestrator.testing.local_cluster import Cluster  # noqa: E402
from orchestrator.testing.sshd import why_no_sshd  # noqa: E402

MB = 1_000_000
RATE = 30  # MB a second, of one rank
TAIL = 1000
_READ = 1 << 16
_LONGEST = 120.0


class Reader:
    """A process whose output is counted as it comes: when the first byte was there, when the last."""

    def __init__(self, argv: Sequence[str], env: dict[str, str], cwd: Path) -> None:
        self.begin = time.monotonic()
        self.first = self.last = 0.0
        self.count = self.lines = 0
        self._grew = threading.Condition()
        self._process = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        while data := os.read(handle, _READ):
            with self._grew:
                self.last = time.monotonic()
                self.first = self.first or self.last
                self.count += len(data)
                self.lines += data.count(b"\n")
                self._grew.notify_all()

    def wait_for_lines(self, lines: int) -> None:
        """Wait until so many lines have been read."""
        with self._grew:
            if not self._grew.wait_for(lambda: self.lines >= lines, _LONGEST):
                raise RuntimeError(f"{self.lines} of {lines} lines came within {_LONGEST:.0f} s")

    def end(self, *, kill: bool = False) -> Sample:
        """The process once it has ended, or has been made to; its time is that of its last output."""
        if kill:
            self._process.terminate()
        self._thread.join(_LONGEST)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if not kill and self._process.returncode:
            raise RuntimeError(f"exit code {self._process.returncode}")
        return Sample(self.last - self.begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

    def close(self) -> None:
        """End the process where the bench broke off while it read."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Bench:
    """A run whose logs are as long as is wanted, and those who read them."""

    def __init__(self, loopback: Loopback, given: argparse.Namespace) -> None:
        self._loopback = loopback
        self._given = given
        self._readers: list[Reader] = []
        inventory = loopback.inventory(loopback.folder, given.hosts)
        self._cluster = Cluster(loopback.folder, inventory)
        job = self._cluster.job(["sleep", "100000"], devices_per_host=1)
        started = self._cluster.run("launch", job, "-i", self._cluster.inventory, "--detach")
        if started.returncode:
            raise RuntimeError(started.stdout + started.stderr)
        (self._run_id,) = {control.run_id for control in self._cluster.controls()}
        names = [host["name"] for host in inventory["hosts"]]
        folders = [loopback.folder / "hosts" / name / "runs" / self._run_id for name in names]
        self._logs = [RunDir(folder).attempt.log(f"rank_{rank}") for rank, folder in enumerate(folders)]
        self._line = b"0123456789" * (given.line // 10 + 1)
        self._line = self._line[: given.line - 1] + b"\n"
        for log in self._logs:
            self._append(log, given.size * MB)
        # Of whole lines: of half a line at its end a reader says nothing before the other half is there.
        self._size = self._logs[0].stat().st_size
        whole = f"of {given.hosts} x {given.size} MB"
        self.first = Series(f"logs, first line {whole}")
        self.all = Series(f"logs, all {whole}")
        self.tail = Series(f"logs --tail {TAIL} {whole}")
        self.follow = Series(f"logs --follow, {given.follow} MB at once")
        self.plain = Series("  ssh tail -f, the same")
        self.paced = Series(f"logs --follow behind {RATE} MB/s, after {given.follow} MB")
        self.plain_paced = Series("  ssh tail -f, the same")

    def _append(self, log: Path, size: int, rate: float | None = None) -> int:
        """Let a log grow by so many bytes, at a rate of MB a second if there is one; the lines of it."""
        block = self._line * max(1, (MB // 4) // len(self._line))
        begin, written = time.monotonic(), 0
        with log.open("ab", buffering=0) as file:
            while written < size:
                written += file.write(block)
                if rate:
                    time.sleep(max(0.0, written / rate / MB - (time.monotonic() - begin)))
        return written // len(self._line)

    def _logs_of(self, *words: str) -> Reader:
        return self._reader(self._cluster.argv("logs", self._run_id, *words), self._cluster.env)

    def _tail_of(self) -> Reader:
        words = ["-F", str(self._loopback.config), self._loopback.addresses[0], "tail", "-n", "1", "-f"]
        return self._reader(["ssh", *words, str(self._logs[0])], dict(os.environ))

    def _reader(self, argv: Sequence[str], env: dict[str, str]) -> Reader:
        self._readers.append(Reader(argv, env, self._cluster.folder))
        return self._readers[-1]

    def round(self) -> None:
        """Everything once."""
        reader = self._logs_of()
        reader.wait_for_lines(1)
        self.first.samples.append(Sample(reader.first - reader.begin, 0.0))
        self.all.samples.append(reader.end())
        self.tail.samples.append(self._logs_of("--tail", str(TAIL)).end())
        for rate, pairs in (
            (None, ((self.plain, self._tail_of), (self.follow, self._follow_of))),
            (RATE, ((self.plain_paced, self._tail_of), (self.paced, self._follow_of))),
        ):
            for series, start in pairs:
                series.samples.append(self._grow(start(), rate))

    def _follow_of(self) -> Reader:
        return self._logs_of("--follow", "--tail", "1", "--rank", "0")

    def _grow(self, reader: Reader, rate: float | None) -> Sample:
        """From the first byte written (or, at a rate, the last one) to the last line read."""
        reader.wait_for_lines(1)
        begin = time.monotonic()
        lines = self._append(self._logs[0], self._given.follow * MB, rate)
        if rate:
            begin = time.monotonic()
        reader.wait_for_lines(1 + lines)
        wall = time.monotonic() - begin
        ended = reader.end(kill=True)
        os.truncate(self._logs[0], self._size)
        return Sample(wall, ended.cpu, ended.peak)

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._cluster.run("stop", self._run_id)
        self._cluster.close()

    def goals(self) -> list[Goal]:
        """What the figures are to be."""
        readers = (self.all, self.tail, self.follow, self.paced)
        peak = max(series.peak for series in readers) / MB
        return [
            Goal("first line", self.first.wall, 1.0, unit="s"),
            Goal("most memory", peak, 100.0, unit="MB"),
            Goal("follow", self._given.follow / self.follow.wall, RATE, at_least=True, unit="MB/s"),
            Goal(f"behind {RATE} MB/s", self.paced.wall, 2.0, unit="s"),
        ]

    def series(self) -> list[Series]:
        return [self.first, self.all, self.tail, self.follow, self.plain, self.paced, self.plain_paced]

    def rate(self, series: Series) -> float:
        """MB a second, of those that are read whole; 0 for the others."""
        sizes = {self.all.name: self._given.hosts * self._given.size}
        size = self._given.follow if series in (self.follow, self.plain) else sizes.get(series.name, 0)
        return size / series.wall if size else 0.0


def show(bench: Bench, given: argparse.Namespace, load: tuple[float, float]) -> None:
    print(f"{given.hosts} hosts on one sshd, {os.cpu_count()} cores, lines of {given.line} bytes, ", end="")
    print(f"medians of {given.rounds} rounds")
    print(f"load average {load[0]:.1f} before and {load[1]:.1f} after\n")
    table = Table("", "wall s", "min", "max", "MB/s", "CPU s", "peak MB")
    for series in bench.series():
        low, high = series.spread
        rate = bench.rate(series)
        table.add(
            series.name,
            *(f"{seconds:.2f}" for seconds in (series.wall, low, high)),
            f"{rate:.0f}" if rate else "",
            f"{series.cpu:.2f}",
            f"{series.peak / MB:.0f}",
        )
    table.print()
    print()
    for goal in bench.goals():
        print(goal.line())


def as_data(bench: Bench, given: argparse.Namespace, load: tuple[float, float]) -> dict[str, Any]:
    names = ("first", "all", "tail", "follow", "follow_tail_f", "paced", "paced_tail_f")
    return {
        **vars(given),
        "cores": os.cpu_count(),
        "load_average": load,
        "series": {
            name: {**series.to_json(), "mb_per_s": bench.rate(series)}
            for name, series in zip(names, bench.series(), strict=True)
        },
        "goals": {goal.name: goal.to_json() for goal in bench.goals()},
    }


def main() -> int:
    """Measure and print; 1 where something did not work, 0 also where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=8)
    parser.add_argument("--size", type=int, default=100, help="MB of each log")
    parser.add_argument("--follow", type=int, default=200, help="MB that a log grows by")
    parser.add_argument("--line", type=int, default=120, help="bytes of a line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    given = parser.parse_args()
    if reason := why_no_sshd():
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 1
    # Also where it is told to end: a run and a server are not to be left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            with Loopback(Path(folder), given.hosts) as loopback:
                bench = Bench(loopback, given)
                try:
                    for _ in range(given.rounds):
                        bench.round()
                finally:
                    bench.close()
        except (RuntimeError, OSError) as error:
            print(f"the bench broke off: {error}", file=sys.stderr)
            return 1
    loads = (load, os.getloadavg()[0])
    if given.json:
        print_json(as_data(bench, given, loads))
    else:
        show(bench, given, loads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
