"""Simulated months: how much of the time a run that goes on by itself trains, and how fast it goes on.

    python bench/goodput.py [--hosts 1000] [--days 30] [--seeds 1,2,3] [--json]

The controller is the real one: monitor, watch, verdicts, decisions, plans. Hosts, network and workers are
simulated; faults come once in `--mtbf`, of published kinds (`simulation/fault_rates`). It is simulated
without the time that a framework needs to start; what that costs is told for 2, 5 and 10 minutes of it, by
as many starts as there were.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.report import Goal, Table, print_json  # noqa: E402
from orchestrator.agent.stop_grace import STACKS  # noqa: E402
from orchestrator.control.decisions import Choice  # noqa: E402
from orchestrator.simulation.fault_rates import drawn_faults  # noqa: E402
from orchestrator.simulation.faults import Fault  # noqa: E402
from orchestrator.simulation.scaled_plan import scaled_plan  # noqa: E402
from orchestrator.simulation.simulated_day import SimulatedDay, simulated_day  # noqa: E402
from orchestrator.simulation.workload import Workload  # noqa: E402

UNREACHABLE = 60
JOB = f"""\
name: month
task: pretrain
hosts: all
devices_per_host: 8
device_target: Ascend
networking: {{mode: rank_table}}
parallel: {{model_parallel: 8}}
model: {{preset: 7.1b}}
data: {{path: /data/corpus.json, tokenizer: /data/tokenizer.json, seq_length: 2048}}
train: {{steps: 100000000, batch_size: 1}}
checkpoint: {{save_steps: 70}}
timeouts: {{unreachable: {UNREACHABLE}}}
restart: {{max: 100, window: 1h, wait: 2h, spares: ready}}
"""
INVENTORY = """\
hosts:
  - {{name: like, address: 10.9.9.9, devices: 0-7, chip: 910B}}
{spares}
groups:
  ready: [{names}]
"""
STEP, SAVE, WRITE = 2.0, 1.0, 30.0
_LINES = "25 Gb/s carry 3.1 GB/s, 100 Gb/s 12.5; they come over SSH, by way of the control node"
SHARD = 1e9  # bytes of a rank's; a host that comes in gets those of its 8 ranks, one after the other
_STARTS = (2.0, 5.0, 10.0)  # minutes that a framework needs to start


@dataclass(frozen=True, slots=True)
class Month:
    """One simulated month, in seconds. `told` are those from a crash until the new workers were told."""

    seed: int
    hosts: int
    seconds: float
    faults: int
    restarts: int
    state: str
    productive: float
    account: dict[str, float]
    interval: float
    told: tuple[float, ...]
    real: float
    cpu: float
    memory: int
    spares: int
    rate: float

    @property
    def goodput(self) -> float:
        """The share of the time in which steps were made that the run has kept."""
        return self.productive / self.seconds if self.seconds else 0.0

    def goodput_with(self, start: float) -> float:
        """The same where each attempt needs `start` seconds more until its first step."""
        return max(0.0, self.goodput * (1.0 - (self.restarts + 1) * start / self.seconds))


def lived(hosts: int, spares: int, days: float, mtbf: float, seed: int, limit: float, rate: float) -> Month:
    """Live through a month."""
    gc.disable()  # what is made here is mostly kept, or has no cycles
    begun, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        job, inventory = folder / "job.yaml", folder / "inventory.yaml"
        job.write_text(JOB)
        names = [f"spare{number}" for number in range(spares)]
        rows = [
            f"  - {{name: {each}, address: 10.9.8.{at + 1}, devices: 0-7, chip: 910B}}"
            for at, each in enumerate(names)
        ]
        inventory.write_text(INVENTORY.format(spares="\n".join(rows), names=", ".join(names)))
        scaled = scaled_plan(job, inventory, hosts, seed=seed)
        load = Workload(
            imports=1.0,
            first_step=STEP,
            step=STEP,
            save_every=scaled.job.checkpoint.save_steps,
            save=SAVE,
            write=WRITE,
            tells_saved=True,
            can=(STACKS,),
            shard_bytes=SHARD,
            move_rate=rate,
        )
        # What of the program is at fault each time is never gone on from: here it was gone on from.
        faults = tuple(
            dataclasses.replace(fault, lines=("Segmentation fault",), code=139)
            if _is_of_job(fault)
            else fault
            for fault in drawn_faults(mtbf, days * 86400.0, scaled.ranks, seed)
        )
        day = simulated_day(
            scaled.plan,
            folder / "state",
            workload=load,
            faults=faults,
            hours=days * 24.0,
            seed=seed,
            direct=True,
            limit=limit,
        )
    return _month(day, seed, hosts, spares, len(faults), load, time.perf_counter() - begun, cpu)


def _is_of_job(fault: Fault) -> bool:
    return any(line.startswith(("KeyError", "ImportError")) for line in fault.lines)


def _month(
    day: SimulatedDay,
    seed: int,
    hosts: int,
    spares: int,
    faults: int,
    load: Workload,
    real: float,
    cpu: float,
) -> Month:
    outcome = day.attempts[-1].outcome
    seen = outcome.attempts
    told = tuple(
        after.told - before.broke
        for before, after in itertools.pairwise(seen)
        if after.told is not None
        and before.broke is not None
        and before.crashed
        and before.decision is not None
        and before.decision.choice is Choice.AGAIN
    )
    return Month(
        seed=seed,
        hosts=hosts,
        seconds=day.seconds,
        faults=faults,
        restarts=len(seen) - 1,
        state=str(outcome.state),
        productive=day.account.productive,
        account=day.account.parts(),
        interval=(load.save_every or 0) * load.step,
        told=told,
        real=real,
        cpu=time.process_time() - cpu,
        memory=outcome.cost.memory,
        spares=spares,
        rate=load.move_rate,
    )


def goals(months: Sequence[Month], real: float) -> list[Goal]:
    """What the figures are to be."""
    found = []
    for month in months:
        lost = 100 * (1 - month.goodput)
        found.append(Goal(f"time without progress, seed {month.seed}", lost, 3.0, unit="%"))
        longest = max(month.told, default=math.inf)
        found.append(Goal(f"crash to workers told to start, seed {month.seed}", longest, 10.0, unit="s"))
    found.append(Goal("all of it", real / 60, 20.0, unit="min"))
    return found


def show(months: Sequence[Month], mtbf: float, real: float) -> None:
    first = months[0]
    print(
        f"SIMULATED: {first.hosts:,} hosts of 8 devices, {first.spares} spares, a fault in {mtbf / 3600:g} h"
    )
    print(f"a save each {first.interval:g} s stalls {SAVE:g} s and is whole {WRITE:g} s later")
    moved = f"{SHARD / 1e9:g} GB for each of its 8 ranks, {first.rate / 1e9:g} GB/s ({_LINES})"
    print(f"a host that comes in gets its shards from another one: {moved}")
    print(f"timeouts.unreachable {UNREACHABLE} s; goodput by the minutes that a framework starts")
    print()
    columns = [f"{minutes:g} min" for minutes in _STARTS]
    table = Table(
        "seed", "days", "faults", "restarts", "goodput %", *columns, "told s", "state", "CPU s", "MB"
    )
    for month in months:
        table.add(
            str(month.seed),
            f"{month.seconds / 86400:.1f}",
            str(month.faults),
            str(month.restarts),
            f"{100 * month.goodput:.2f}",
            *(f"{100 * month.goodput_with(60 * minutes):.2f}" for minutes in _STARTS),
            f"{max(month.told, default=math.nan):.2f}",
            month.state,
            f"{month.cpu:.0f}",
            f"{month.memory / 1e6:.0f}",
        )
    table.print()
    print()
    for month in months:
        parts = ", ".join(f"{name} {seconds / 3600:.2f} h" for name, seconds in month.account.items())
        print(f"seed {month.seed}: {parts}")
    print()
    for goal in goals(months, real):
        print(goal.line())


def as_data(months: Sequence[Month], mtbf: float, real: float) -> dict[str, Any]:
    rows = [
        {
            **dataclasses.asdict(month),
            "goodput": month.goodput,
            "with_start": {f"{minutes:g}": month.goodput_with(60 * minutes) for minutes in _STARTS},
        }
        for month in months
    ]
    return {
        "cores": os.cpu_count(),
        "mtbf": mtbf,
        "unreachable": UNREACHABLE,
        "seconds_of_real_time": real,
        "months": rows,
        "goals": {goal.name: goal.to_json() for goal in goals(months, real)},
    }


def _side_by_side(seeds: Iterable[int], given: argparse.Namespace) -> list[Month]:
    """A process for each seed, as many at once as there are cores, each of which has one of its own.

    Of a simulation's threads exactly one runs at any moment: where the next one may run on another core, each
    change of hands wakes that core, and the old thread's still has the interpreter. That is a sixth of all.
    """
    argv = [sys.executable, str(Path(__file__)), "--hosts", str(given.hosts), "--spares", str(given.spares)]
    argv += ["--days", str(given.days), "--mtbf", str(given.mtbf), "--limit", str(given.limit)]
    argv += ["--rate", str(given.rate)]
    waiting = list(seeds)
    free = sorted(os.sched_getaffinity(0))
    running: dict[int, tuple[int, subprocess.Popen[str]]] = {}
    found: dict[int, Month] = {}
    while waiting or running:
        while waiting and free:
            seed, core = waiting.pop(0), free.pop(0)
            own = [*argv, "--one", str(seed), "--core", str(core)]
            running[seed] = core, subprocess.Popen(own, stdout=subprocess.PIPE, text=True)
        for seed, (core, process) in list(running.items()):
            if process.poll() is not None:
                said = process.communicate()[0]
                del running[seed]
                free.append(core)
                if process.returncode:
                    raise RuntimeError(f"seed {seed} ended with {process.returncode}")
                row = json.loads(said.splitlines()[-1])
                found[seed] = Month(**{**row, "told": tuple(row["told"])})
        time.sleep(0.2)
    return [found[seed] for seed in sorted(found)]


def main() -> int:
    """Live, print; 1 where a month broke off, 0 also where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--spares", type=int, default=8)
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument(
        "--mtbf", type=float, default=3 * 3600.0, help="seconds between two faults, on average"
    )
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds of real time for a month")
    parser.add_argument(
        "--rate", type=float, default=1.0, help="GB/s at which shards come to a host that comes in"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    given = parser.parse_args()
    if given.one is not None:
        if given.core is not None:
            os.sched_setaffinity(0, {given.core})
        month = lived(
            given.hosts, given.spares, given.days, given.mtbf, given.one, given.limit, given.rate * 1e9
        )
        print(json.dumps(dataclasses.asdict(month)))
        return 0
    begun = time.perf_counter()
    try:
        months = _side_by_side([int(each) for each in given.seeds.split(",")], given)
    except RuntimeError as error:
        print(f"the bench broke off: {error}", file=sys.stderr)
        return 1
    real = time.perf_counter() - begun
    if given.json:
        print_json(as_data(months, given.mtbf, real))
    else:
        show(months, given.mtbf, real)
    return 0


if __name__ == "__main__":
    sys.exit(main())
