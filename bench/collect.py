"""`collect-ckpt` and `checkpoint combine` against the three steps of MindFormers' documentation, and scp.

The case: a Bloom of 267 M parameters on 8 ranks, float32 with two Adam moments, 3.2 GB in all, made here. All
is measured in one run, round by round, with the shards in the page cache. MindFormers' steps leave the result
there, too, and ours do with --no-fsync. By default they wait for the disk; scp's copies then get an fsync, as
well. MindSpore refuses to start where little memory is "free", though the page cache would give way: then the
cache is emptied, which takes root, or the bench says how to.
Needs 12 GB of disk, 35 GB for `large`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.loopback import Loopback  # noqa: E402
from bench.report import Goal, Sample, Series, Table, measure, print_json  # noqa: E402
from bench.shards import RANKS, Shards  # noqa: E402
from orchestrator.core.paths import RunDir  # noqa: E402
from orchestrator.testing.local_cluster import Cluster  # noqa: E402
from orchestrator.testing.sshd import why_no_sshd  # noqa: E402

LAYERS, TIMES = 20, 4
HOSTS = 2
PARTS = ("local", "large", "ssh")
_THREE_STEPS = "MindFormers' three steps"
# The shards, the cleaned shards and the whole, with as much to spare as MindSpore keeps for itself.
_FOR_MINDSPORE = 8 << 30


class Bench:
    """What is measured, in a folder of its own."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self._folder = folder
        self._rounds = rounds
        self._shards = Shards(folder / "shards", LAYERS)
        self.series: dict[str, Series] = {}
        self.goals: list[Goal] = []

    def prepare(self) -> None:
        self._shards.write()

    def local(self) -> None:
        """Both ways on this machine."""
        cluster = self._cluster(self._shards, "local", _local_inventory(self._folder / "local"))
        weights = self._shards.weights
        ways: dict[str, Callable[[], Sample]] = {
            "collect-ckpt --no-fsync": lambda: self._collect(cluster, "--no-fsync"),
            "combine --no-fsync": lambda: self._combine(cluster, "--no-fsync"),
            "collect-ckpt": lambda: self._collect(cluster),
        }
        if importlib.util.find_spec("mindspore"):
            _make_room(_FOR_MINDSPORE)
            ways = {_THREE_STEPS: self._three_steps, **ways}
        for _ in range(self._rounds):
            for name, way in ways.items():
                self._repeat(name, self._shards, way, rounds=1)
        ours = self.series["collect-ckpt"]
        if theirs := self.series.get(_THREE_STEPS):
            for name in ("collect-ckpt --no-fsync", "combine --no-fsync"):
                ratio = theirs.wall / self.series[name].wall
                self.goals.append(Goal(f"three steps / {name}", ratio, 10, at_least=True))
        self.goals.append(Goal("peak memory of collect-ckpt", ours.peak / 1e6, 500, unit="MB"))
        # Of the whole process: Python's own modules are among what it reads.
        self.goals.append(Goal("bytes read / weights", ours.read / weights, 1.05))

    def large(self) -> None:
        """A model four times as deep."""
        if "collect-ckpt" not in self.series:
            raise RuntimeError("`large` is compared with `local`: run both")
        shards = Shards(self._folder / "large-shards", TIMES * LAYERS)
        shards.write()
        cluster = self._cluster(shards, "large", _local_inventory(self._folder / "large"))
        ours, small = (
            self._repeat("collect-ckpt, 4 times the size", shards, lambda: self._collect(cluster)),
            self.series["collect-ckpt"],
        )
        shutil.rmtree(shards.folder)
        shutil.rmtree(self._folder / "large")
        self.goals.append(Goal("time, 4 times the size / once", ours.wall / small.wall, 4.4))
        self.goals.append(Goal("memory, 4 times the size / once", ours.peak / small.peak, 1.05))

    def ssh(self) -> None:
        """From two loopback hosts, against scp of as many bytes from both at once."""
        with Loopback(self._folder / "sshd", HOSTS) as loopback:
            inventory = loopback.inventory(self._folder / "ssh", HOSTS)
            inventory["defaults"]["devices"] = f"0-{RANKS // HOSTS - 1}"
            cluster = self._cluster(self._shards, "ssh", inventory)
            part = self._shards.weights // HOSTS
            block = os.urandom(1 << 20)
            payload = self._folder / "payload"
            with payload.open("wb") as file:
                for start in range(0, part, len(block)):
                    file.write(block[: part - start])
            wire: list[float] = []

            def counted() -> Sample:
                before = _loopback_bytes()
                sample = self._collect(cluster, "--via-hosts")
                wire.append((_loopback_bytes() - before) / self._shards.weights)
                return sample

            def copies() -> Sample:
                return self._scp(loopback, payload)

            for _ in range(self._rounds):
                scp = self._repeat("scp from 2 hosts at once", self._shards, copies, rounds=1)
                ours = self._repeat("collect-ckpt over SSH", self._shards, counted, rounds=1)
        self.goals.append(Goal("bytes over the wire / weights", max(wire), 1.05))
        self.goals.append(Goal("throughput / that of scp", scp.wall / ours.wall, 0.8, at_least=True))

    def _cluster(self, shards: Shards, name: str, inventory: dict[str, Any]) -> Cluster:
        folder = self._folder / name
        folder.mkdir()
        cluster = Cluster(folder, inventory)
        done = cluster.launch(cluster.job(["true"], devices_per_host=RANKS // HOSTS))
        if done.returncode:
            raise RuntimeError(done.stderr)
        shards.link_into([RunDir(path).attempt for path in cluster.run_dirs()])
        return cluster

    def _repeat(
        self, name: str, shards: Shards, once: Callable[[], Sample], rounds: int | None = None
    ) -> Series:
        series = self.series.setdefault(name, Series(name))
        for _ in range(rounds or self._rounds):
            shards.touch()
            os.sync()
            series.samples.append(once())
        return series

    def _three_steps(self) -> Sample:
        work = self._folder / "work"
        work.mkdir()
        script = [sys.executable, str(ROOT / "bench" / "mindformers_way.py")]
        sample = measure(
            [*script, str(self._shards.folder), str(self._shards.folder / "strategy"), str(work)]
        )
        shutil.rmtree(work)
        return sample

    def _collect(self, cluster: Cluster, *words: str) -> Sample:
        argv = cluster.argv("collect-ckpt", "-o", cluster.folder / "out.ckpt", *words)
        sample = measure(argv, env=cluster.env, cwd=cluster.folder)
        (cluster.folder / "out.ckpt").unlink()
        return sample

    def _combine(self, cluster: Cluster, *words: str) -> Sample:
        source = ("--checkpoint-dir", self._shards.folder, "--strategy-dir", self._shards.folder / "strategy")
        argv = cluster.argv("checkpoint", "combine", *source, "-o", cluster.folder / "whole.ckpt", *words)
        sample = measure(argv, env=cluster.env, cwd=cluster.folder)
        (cluster.folder / "whole.ckpt").unlink()
        return sample

    def _scp(self, loopback: Loopback, payload: Path) -> Sample:
        argvs = [
            ["scp", "-q", "-F", str(loopback.config), f"{host}:{payload}", str(self._folder / f"copy-{host}")]
            for host in loopback.addresses
        ]
        begin = time.monotonic()
        processes = [subprocess.Popen(argv, stdin=subprocess.DEVNULL) for argv in argvs]
        if any([process.wait() for process in processes]):
            raise RuntimeError("scp failed")
        wall = time.monotonic() - begin + sum(map(_fsync, self._folder.glob("copy-*")))
        for copy in self._folder.glob("copy-*"):
            copy.unlink()
        return Sample(wall, 0.0)


def _local_inventory(folder: Path) -> dict[str, Any]:
    defaults = {"workdir": str(folder / "hosts" / "{name}"), "devices": f"0-{RANKS // HOSTS - 1}"}
    return {"transport": "local", "defaults": defaults, "hosts": [{"name": f"host[1-{HOSTS}]"}]}


def _make_room(nbytes: int) -> None:
    """Have so much memory free and not in the page cache. RuntimeError where this user may not."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    if int(fields["MemFree"].split()[0]) * 1024 >= nbytes:
        return
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError as error:
        raise RuntimeError(
            f"MindSpore wants {nbytes / 1e9:.0f} GB of free memory, and the page cache has it: empty it with"
            " `sync; echo 1 | sudo tee /proc/sys/vm/drop_caches`"
        ) from error


def _fsync(path: Path) -> float:
    """Seconds until the file is on the disk."""
    begin = time.monotonic()
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return time.monotonic() - begin


def _loopback_bytes() -> int:
    """What the loopback interface has carried since it is up, packet headers included."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    raise RuntimeError("no loopback interface")


def show(bench: Bench, load: tuple[float, float]) -> None:
    print(f"{os.cpu_count()} cores, load average {load[0]:.1f} before and {load[1]:.1f} after\n")
    table = Table("", "wall s", "min", "max", "CPU s", "peak MB", "read GB")
    for series in bench.series.values():
        low, high = series.spread
        sizes = (f"{series.peak / 1e6:.0f}", f"{series.read / 1e9:.2f}") if series.peak else ("", "")
        cpu = f"{series.cpu:.2f}" if series.cpu else ""
        table.add(series.name, f"{series.wall:.2f}", f"{low:.2f}", f"{high:.2f}", cpu, *sizes)
    table.print()
    print()
    for goal in bench.goals:
        print(goal.line())


def main() -> int:
    """Measure and print; 1 where something did not work, 0 also where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    given = parser.parse_args()
    parts = given.only.split(",")
    if wrong := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(wrong)}")
    if "ssh" in parts and (reason := why_no_sshd()):
        print(f"left out, over SSH: {reason}", file=sys.stderr)
        parts.remove("ssh")
    # As for a user: modules are compiled once, not by every command.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=given.folder) as folder:
        bench = Bench(Path(folder), given.rounds)
        try:
            bench.prepare()
            for part in parts:
                getattr(bench, part)()
        except (RuntimeError, OSError) as error:
            print(f"the bench broke off: {error}", file=sys.stderr)
            return 1
    loads = (load, os.getloadavg()[0])
    if given.json:
        series = {one.name: one.to_json() for one in bench.series.values()}
        goals = {goal.name: goal.to_json() for goal in bench.goals}
        print_json({"cores": os.cpu_count(), "load_average": loads, "series": series, "goals": goals})
    else:
        show(bench, loads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
