"""What control costs as hosts become many: launch, watch, a rank that is killed, stop.

    python bench/scale.py --hosts 16,64 [--window 60] [--simulate 1000,4000] [--json]

N addresses on one sshd of our own are N hosts with one rank each, which makes a step every two seconds. For
each N: a launch, whole; the monitor for a while, when nothing happens but steps; one rank is killed, until
the last host was told to stop and until all workers are dead; a second launch, and `orchestrate stop`. The
hosts' own work shares this machine's cores. `--simulate` adds rows of the controller alone, by
`orchestrate simulate`: nothing of them is a real host.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.loopback import Loopback  # noqa: E402
from bench.report import Goal, Sample, Table, cpu_seconds, measure, print_json  # noqa: E402
from orchestrator.control.monitor_process import monitor_pid  # noqa: E402
from orchestrator.control.run_record import RunRecord, read_record  # noqa: E402
from orchestrator.core.paths import ControlDir  # noqa: E402
from orchestrator.core.states import RankState  # noqa: E402
from orchestrator.testing.local_cluster import Cluster  # noqa: E402
from orchestrator.testing.sshd import why_no_sshd  # noqa: E402

WORKER = ROOT / "bench" / "steps.py"
GRACE = 10
# Eight ranks a host, on Ascend, that make a step every two seconds.
SIMULATED_JOB = """\
name: scale
task: pretrain
hosts: all
devices_per_host: 8
device_target: Ascend
networking: {mode: rank_table}
parallel: {model_parallel: 8}
model: {preset: 7.1b}
data: {path: /data/corpus.json, tokenizer: /data/tokenizer.json, seq_length: 2048}
train: {steps: 1000000, batch_size: 1}
checkpoint: {save_steps: 100000}
"""
# A steady monitor has seen every rank make so many steps.
STEADY_AFTER = 3
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Scale:
    """The figures of one number of hosts: seconds, CPU seconds, percent of a core, bytes.

    None stands for what was not measured. `launch_cpu` is the control node's whole CPU of a launch onto hosts
    that are new to it, `again_cpu` of one onto the same hosts, which have the agent; `told` is the time from
    the death of a rank to the last host's being told to stop, `dead` to the last worker's end.
    """

    hosts: int
    simulated: bool
    launch_wall: float | None = None
    launch_cpu: float | None = None
    again_cpu: float | None = None
    monitor_cpu: float | None = None
    monitor_memory: int | None = None
    threads: int | None = None
    descriptors: int | None = None
    told: float | None = None
    dead: float | None = None
    stop_wall: float | None = None
    stop_exit: int | None = None


class SteppingRun:
    """Runs of workers that make steps, on hosts of a loopback; all is ended on the way out."""

    def __init__(self, loopback: Loopback, folder: Path, count: int) -> None:
        folder.mkdir()
        self._loopback = loopback
        self._count = count
        self._cluster = Cluster(folder, loopback.inventory(folder, count))
        shutil.copy(WORKER, folder / WORKER.name)
        command = ["{python}", "-I", "-S", WORKER.name]
        self._job = self._cluster.job(
            command,
            devices_per_host=1,
            sync=[WORKER.name],
            timeouts={"grace": GRACE, "prepare": 300},
        )

    def launch(self) -> Sample:
        """One launch to the moment it returns; its CPU is that of the command and of the monitor by then."""
        command = self._run("launch", self._job, "-i", self._cluster.inventory, "--detach")
        running = [rank for rank in self.record().ranks() if rank.state is RankState.RUNNING]
        if len(running) != self._count:
            raise RuntimeError(f"{len(running)} of {self._count} ranks run")
        return Sample(command.wall, command.cpu + cpu_seconds(self.monitor()))

    def stop(self) -> tuple[float, int]:
        """Seconds until `orchestrate stop` returned, and its exit code."""
        argv = self._cluster.argv("stop")
        begin = time.monotonic()
        done = subprocess.run(
            argv,
            env=self._cluster.env,
            cwd=self._cluster.folder,
            capture_output=True,
            timeout=900,
            check=False,
        )
        wall = time.monotonic() - begin
        if done.returncode:
            print(done.stderr.decode("utf-8", "replace")[-2000:], file=sys.stderr)
        return wall, done.returncode

    def wait_until_steady(self) -> None:
        def is_steady() -> bool:
            steps = [rank.progress.get("step", 0) for rank in self.record().ranks()]
            return len(steps) == self._count and min(steps) >= STEADY_AFTER

        # The record's steps come late where digests are rare: the workers' files are the second witness.
        _wait(lambda: is_steady() or self._least_lines() > 2 * STEADY_AFTER, "every rank makes steps")

    def watch(self, seconds: float) -> tuple[float, int, int, int]:
        """The monitor while nothing happens: percent of a core; memory in bytes, threads, descriptors."""
        pid = self.monitor()
        begin, before = time.monotonic(), cpu_seconds(pid)
        time.sleep(seconds)
        share = (cpu_seconds(pid) - before) / (time.monotonic() - begin) * 100
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0]) * 1024
        return share, memory, int(status["Threads"]), len(os.listdir(f"/proc/{pid}/fd"))

    def kill_a_rank(self) -> tuple[float, float]:
        """SIGKILL for the last host's rank: seconds until the last other one was told, until all are dead."""
        pids = {int(path.name[4:]): int(path.read_text()) for path in self._files("pid_*")}
        if len(pids) != self._count:
            raise RuntimeError(f"{len(pids)} of {self._count} workers have told their pid")
        victim = max(pids)
        killed = time.time()
        os.kill(pids[victim], signal.SIGKILL)
        left = set(pids.values())

        def all_dead() -> bool:
            left.difference_update([pid for pid in left if not Path(f"/proc/{pid}").exists()])
            return not left

        _wait(all_dead, "all workers are dead", pause=0.01)
        dead = time.time() - killed
        told = [float(path.read_text()) for path in self._files("told_[0-9]*") if path.suffix != ".part"]
        if len(told) != self._count - 1:
            raise RuntimeError(f"{len(told)} of {self._count - 1} other workers were told to stop")
        _wait(lambda: self.record().state.is_terminal, "the run has ended")
        return max(told, default=killed) - killed, dead

    def settle(self) -> None:
        """Wait until the monitor is gone, and its connections."""
        control = self._newest()
        _wait(lambda: monitor_pid(control) is None, "the monitor has ended")
        self._loopback.settle()

    def record(self) -> RunRecord:
        return read_record(self._newest())

    def monitor(self) -> int:
        pid = monitor_pid(self._newest())
        if pid is None:
            raise RuntimeError("there is no monitor")
        return pid

    def _least_lines(self) -> int:
        found = [path.read_bytes().count(b"\n") for path in self._files("metrics/rank_*.jsonl")]
        return min(found) if len(found) == self._count else 0

    def _files(self, pattern: str) -> list[Path]:
        run_id = self._newest().run_id
        return list(self._cluster.folder.glob(f"hosts/*/runs/{run_id}/{pattern}"))

    def _run(self, *words: str | Path) -> Sample:
        return measure(self._cluster.argv(*words), env=self._cluster.env, cwd=self._cluster.folder)

    def _newest(self) -> ControlDir:
        return max(self._cluster.controls(), key=lambda control: control.plan.stat().st_mtime_ns)

    def __enter__(self) -> SteppingRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._cluster.close()


def _wait(holds: Any, what: str, pause: float = 0.1) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {PATIENCE:g} s it is still not so that {what}")
        time.sleep(pause)


def real(loopback: Loopback, count: int, window: float) -> Scale:
    """The figures of so many hosts of the loopback."""
    with SteppingRun(loopback, loopback.folder / f"hosts{count}", count) as run:
        loopback.settle()
        launched = run.launch()
        run.wait_until_steady()
        share, memory, threads, descriptors = run.watch(window)
        told, dead = run.kill_a_rank()
        run.settle()
        again = run.launch()
        run.wait_until_steady()
        wall, code = run.stop()
        run.settle()
    return Scale(
        count,
        simulated=False,
        launch_wall=launched.wall,
        launch_cpu=launched.cpu,
        again_cpu=again.cpu,
        monitor_cpu=share,
        monitor_memory=memory,
        threads=threads,
        descriptors=descriptors,
        told=told,
        dead=dead,
        stop_wall=wall,
        stop_exit=code,
    )


def fixed_cost(loopback: Loopback) -> float:
    """The CPU of a launch onto one host: what does not depend on their number, and one host's part.

    The least of four, of which the first also pays for byte code and the page cache.
    """
    costs = []
    with SteppingRun(loopback, loopback.folder / "warm", 1) as run:
        for _ in range(4):
            loopback.settle()
            costs.append(run.launch().cpu)
            run.stop()
            run.settle()
    return min(costs)


def simulated(count: int, minutes: float) -> Scale | str:
    """The controller alone, on so many simulated hosts; or why that cannot be measured."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        job, inventory = Path(folder) / "job.yaml", Path(folder) / "inventory.yaml"
        faults = Path(folder) / "faults.yaml"
        job.write_text(SIMULATED_JOB)
        inventory.write_text("hosts:\n  - {name: like, address: 10.9.9.9, devices: 0-7, chip: 910B}\n")
        when = minutes * 60 - 30
        faults.write_text(f"faults:\n  - {{time: {when:g}s, kind: exit, rank: 7, code: 1}}\n")
        argv = [sys.executable, "-m", "orchestrator", "simulate", str(job), "-i", str(inventory)]
        argv += ["--hosts", str(count), "--hours", str(minutes / 60), "--seed", "0", "--json"]
        env = {**os.environ, "XDG_STATE_HOME": folder}
        found = []
        for more in ([], ["--faults", str(faults)]):
            done = subprocess.run(
                [*argv, *more], env=env, cwd=ROOT, capture_output=True, text=True, check=False
            )
            try:
                found.append(json.loads(done.stdout)["attempts"][0])
            except (ValueError, LookupError, TypeError):
                said = done.stderr.strip().splitlines()
                return f"`orchestrate simulate` tells no cost: {said[-1] if said else done.returncode}"
    return from_attempts(count, *found)


def from_attempts(count: int, steady: dict[str, Any], failed: dict[str, Any]) -> Scale:
    """What two simulated attempts tell: one where only steps happen, and one where a rank fails.

    The memory is that of the whole process, with the hosts that it simulates; `told` has their time, too.
    """
    share = steady.get("controller_watch_share")
    return Scale(
        count,
        simulated=True,
        launch_cpu=steady.get("controller_launch_cpu"),
        monitor_cpu=None if share is None else share * 100,
        monitor_memory=steady.get("memory"),
        told=failed.get("told"),
    )


def goals(rows: Sequence[Scale], fixed: float | None) -> list[Goal]:
    """What the figures are to be, of those that were measured."""
    found: list[Goal] = []

    def goal(name: str, value: float | None, bound: float, unit: str) -> None:
        if value is not None:
            found.append(Goal(name, value, bound, unit=unit))

    for row in rows:
        at = f"{row.hosts} simulated hosts" if row.simulated else f"{row.hosts} hosts"
        if row.simulated:
            goal(f"monitor at {at}", row.monitor_cpu, 5.0, "%")
            if row.monitor_memory is not None:
                goal(f"memory at {at}", row.monitor_memory / 1e6, 300.0, "MB")
            share = per_host(row.launch_cpu, row.hosts, None)
            goal(f"controller's launch CPU per host, {at}", share, 4.0, "ms")
            goal(f"rank failed to last host told, {at}", row.told, 3.0, "s")
            continue
        if row.hosts <= 256:
            goal(f"monitor at {at}", row.monitor_cpu, 1.5, "%")
            goal(f"launch CPU per host, {at}", per_host(row.launch_cpu, row.hosts, fixed), 13.0, "ms")
        if row.hosts <= 64:
            goal(f"rank killed to last host told, {at}", row.told, 1.0, "s")
            goal(f"stop, {at}", row.stop_wall, 3.0, "s")
        elif row.hosts <= 256:
            goal(f"stop, {at}", row.stop_wall, 10.0, "s")
        goal(f"exit code of stop, {at}", row.stop_exit, 0.0, "")
    return found


def per_host(cpu: float | None, hosts: int, fixed: float | None) -> float | None:
    """The control node's CPU of a launch for each host, in ms, `fixed` seconds apart."""
    if cpu is None or hosts < 2:
        return None
    # The fixed cost has one host's part in it.
    others = hosts if fixed is None else hosts - 1
    return (cpu - (fixed or 0.0)) / others * 1000


def show(rows: Sequence[Scale], fixed: float | None, load: tuple[float, float]) -> None:
    print(
        f"{os.cpu_count()} cores, all real hosts on one sshd; load {load[0]:.1f} before, {load[1]:.1f} after"
    )
    if fixed is not None:
        print(f"fixed cost of a launch (one host): {fixed:.2f} s of CPU")
    print()
    table = Table(
        "hosts",
        "launch s",
        "CPU ms/host",
        "again",
        "monitor %",
        "MB",
        "threads",
        "fds",
        "told s",
        "dead s",
        "stop s",
        "exit",
    )
    for row in rows:
        name = f"{row.hosts} simulated" if row.simulated else str(row.hosts)
        memory = None if row.monitor_memory is None else row.monitor_memory / 1e6
        table.add(
            name,
            _shown(row.launch_wall, 1),
            _shown(per_host(row.launch_cpu, row.hosts, None if row.simulated else fixed), 1),
            _shown(per_host(row.again_cpu, row.hosts, fixed), 1),
            _shown(row.monitor_cpu, 2),
            _shown(memory, 0),
            _shown(row.threads, 0),
            _shown(row.descriptors, 0),
            _shown(row.told, 2),
            _shown(row.dead, 2),
            _shown(row.stop_wall, 1),
            _shown(row.stop_exit, 0),
        )
    table.print()
    print()
    for goal in goals(rows, fixed):
        print(goal.line())


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def as_data(
    rows: Sequence[Scale], fixed: float | None, load: tuple[float, float], window: float
) -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "window": window,
        "load_average": load,
        "fixed_launch_cpu": fixed,
        "rows": [dataclasses.asdict(row) for row in rows],
        "goals": {goal.name: goal.to_json() for goal in goals(rows, fixed)},
    }


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each.strip()]


def main() -> int:
    """Measure and print; 1 where something did not work, 0 also where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=numbers, default=[16, 64], help="numbers of real hosts, as 16,64")
    parser.add_argument("--window", type=float, default=60.0, help="seconds for which the monitor is watched")
    parser.add_argument(
        "--simulate", type=numbers, default=[], help="numbers of simulated hosts, as 1000,4000"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long a simulated run is")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    given = parser.parse_args()
    if given.hosts and (reason := why_no_sshd()):
        print(f"cannot measure: {reason}", file=sys.stderr)
        return 1
    rows: list[Scale] = []
    fixed, load, is_whole = None, os.getloadavg()[0], True
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            if given.hosts:
                with Loopback(Path(folder), max(given.hosts)) as loopback:
                    fixed = fixed_cost(loopback)
                    for count in given.hosts:
                        rows.append(real(loopback, count, given.window))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(f"the bench broke off: {error}", file=sys.stderr)
            is_whole = False  # what was measured before is shown all the same
    for count in given.simulate:
        row = simulated(count, given.minutes)
        if isinstance(row, Scale):
            rows.append(row)
        else:
            print(f"{count} simulated hosts are left out: {row}", file=sys.stderr)
    loads = (load, os.getloadavg()[0])
    if given.json:
        print_json(as_data(rows, fixed, loads, given.window))
    else:
        show(rows, fixed, loads)
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
