"""The simulator against reality: the same job, the same bad luck at the same moment, on real processes and on
simulated ones, under the same monitor.

State, exit code, ends, cause and what is left behind must be equal, and times within 20 % or half a second.
REALITY=1 takes every case, on a machine that does nothing else; without it those that a change is most
likely to break, and no times: other tests run beside them. A host that is off and
comes back has the same boot id here, because the kernel is this machine's.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.control.run_record import Cause, RunRecord
from orchestrator.core.states import RunState
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.simulate import Simulation
from orchestrator.simulation.workload import Workload
from tests.simulation import gang_worker
from tests.simulation.real_hosts import WHY_NOT, RealHosts, real_hosts

ALL = bool(os.environ.get("REALITY"))
WORLD = 4
TRIES = 3 if ALL else 1
LIMIT = 150.0
TIMEOUTS = {"unreachable": 4, "grace": 2, "prepare": 12, "connect": 2}


def _is_stopping(record: RunRecord) -> bool:
    """All hosts have been told: a rank that is killed now ends for a stop."""
    phases = {view.status.phase if view.status is not None else "" for view in record.hosts.values()}
    return not record.state.is_terminal and phases <= {"stopping", "over"}


def _steps(record: RunRecord) -> int:
    """The last step that all ranks are known to have made."""
    made = [rank.progress.get("step", 0) for rank in record.ranks()]
    return min((step for step in made if isinstance(step, int)), default=0)


def _runs(record: RunRecord) -> bool:
    states = [str(rank.state) for rank in record.ranks()]
    return record.state is RunState.RUNNING and states == ["running"] * WORLD


# When a fault comes: as soon as a record of the monitor shows this.
MOMENTS: dict[str, Callable[[RunRecord], bool]] = {
    "before": lambda record: record.phase == "connecting",
    "checked": lambda record: record.phase == "preparing",
    "prepared": lambda record: record.phase == "starting" and record.state is RunState.PREPARING,
    "started": lambda record: record.state is RunState.STARTING,
    "running": lambda record: _runs(record) and _steps(record) >= 3,
    "stopping": lambda record: record.cause is not None and _is_stopping(record),
    "unreachable": lambda record: bool(record.hosts["far"].error),
    "ended": lambda record: record.state.is_terminal,
}


@dataclass(frozen=True)
class Case:
    """Faults with their moments, each after the one before. After SIGTERM a rank lives for `term` seconds.

    So many seconds after it fell silent a host is `lost`. `is_race`: both ranks of `far` fail at the same
    time, so that either may be the first.
    It is not `is_timed` where TCP takes seconds more or less to tell that a host has forgotten a connection.
    """

    faults: Sequence[tuple[str, Fault]]
    steps: int = 0
    term: float = 0.0
    is_quick: bool = False
    is_race: bool = False
    is_timed: bool = True
    lost: float = 8.0


def fault(kind: str, **keys: object) -> Fault:
    return Fault(time=0.0, kind=kind, **keys)  # type: ignore[arg-type]


OFF, SILENT, FULL, BACK = (
    fault(kind, host="far") for kind in ("power_off", "partition", "fill_disk", "return")
)
AWAY = fault("partition", host="far", scope="all")
KILLED = fault("kill", rank=2)
LAUNCHING = ("before", "checked", "prepared", "started")

CASES = {
    "nothing": Case((), steps=12, is_quick=True),
    "kill-running": Case([("running", KILLED)], is_quick=True),
    "kill-started": Case([("started", KILLED)], is_quick=True),
    "kill-stopping": Case(
        [("running", KILLED), ("stopping", fault("kill", rank=1))], term=1.0, is_quick=True
    ),
    "full-before": Case([("before", FULL)], is_quick=True),
    "full-checked": Case([("checked", FULL)], is_quick=True),
    "full-prepared": Case([("prepared", FULL)], is_race=True),
    "full-started": Case([("started", FULL)], is_race=True),
    "full-running": Case([("running", FULL)], is_quick=True, is_race=True),
    "full-stopping": Case([("running", KILLED), ("stopping", FULL)], term=1.0),
    **{f"vanish-{moment}": Case([(moment, SILENT)]) for moment in LAUNCHING},
    "vanish-running": Case([("running", SILENT)]),
    "vanish-stopping": Case([("running", KILLED), ("stopping", SILENT)], term=1.0),
    "return-running": Case([("running", SILENT), ("unreachable", BACK)], steps=150, lost=60.0),
    "return-ended": Case([("running", SILENT), ("ended", BACK)]),
    **{f"off-{moment}": Case([(moment, OFF)]) for moment in LAUNCHING},
    "off-running": Case([("running", OFF)]),
    "off-stopping": Case([("running", KILLED), ("stopping", OFF)], term=1.0),
    "reboot-running": Case([("running", OFF), ("unreachable", BACK)], lost=60.0, is_timed=False),
    "reboot-ended": Case([("running", OFF), ("ended", BACK)]),
}


@dataclass(frozen=True)
class Found:
    """What came of a case; `seconds` from its first fault, or from when all ranks ran, to the run's end."""

    state: str
    exit_code: int | None
    ranks: dict[int, str]
    ends: dict[int, tuple[str, int | None, int | None]]
    cause: tuple[str, int | None, str, bool] | None
    tail: str
    victims: tuple[int, ...]
    accused: tuple[str, ...]
    orphans: tuple[int, ...]
    keeping: tuple[str, ...]
    seconds: float = field(compare=False)

    def blurred(self) -> Found:
        """Without which of far's ranks was the first."""
        near = {rank: end for rank, end in self.ends.items() if rank < 2}
        states = {rank: state for rank, state in self.ranks.items() if rank < 2}
        cause = self.cause and (self.cause[0], None, *self.cause[2:])
        victims = tuple(rank for rank in self.victims if rank < 2)
        return dataclasses.replace(self, ranks=states, ends=near, cause=cause, victims=victims)


def _named(cause: Cause | None) -> tuple[str, int | None, str, bool] | None:
    return cause and (cause.host, cause.rank, cause.end.kind.value, cause.sure)


class Episode:
    """Hears the monitor's records, strikes at each moment, and remembers when the run ended."""

    def __init__(self, case: Case, strike: Callable[[Fault], None], clock: Callable[[], float]) -> None:
        self._left = list(case.faults)
        self._strike, self._clock = strike, clock
        self._began: float | None = None
        self._ended: float | None = None
        self._is_from_running = bool(case.steps)
        self.record: RunRecord | None = None

    def told(self, record: RunRecord) -> bool:
        """Whether everything has happened that is compared."""
        self.record = record
        if self._began is None and self._is_from_running and _runs(record):
            self._began = self._clock()
        if record.state.is_terminal and self._ended is None:
            self._ended = self._clock()
        if self._left and MOMENTS[self._left[0][0]](record):
            self._strike(self._left.pop(0)[1])
            if self._began is None and not self._is_from_running:
                self._began = self._clock()
            return False
        is_waited_for = any(view.may_have_workers for view in record.hosts.values()) and bool(self._back)
        return record.state.is_terminal and not self._left and not is_waited_for

    _back = False

    def found(self, orphans: Sequence[int], keeping: set[str]) -> Found:
        record = self.record
        assert record is not None and not self._left, f"{self._left} never came to pass: {record}"
        ends = {rank.rank: rank.end for rank in record.ranks() if rank.end is not None}
        assert self._began is not None and self._ended is not None, record.errors
        return Found(
            state=str(record.state),
            exit_code=record.exit_code,
            ranks={rank.rank: str(rank.state) for rank in record.ranks()},
            ends={rank: (end.kind.value, end.exit_code, end.signal) for rank, end in ends.items()},
            cause=_named(record.cause),
            tail="\n".join(record.cause.end.tail[-1:]) if record.cause is not None else "",
            victims=record.victims,
            accused=tuple(sorted({line.partition(":")[0] for line in record.errors})),
            orphans=tuple(sorted(orphans)),
            keeping=tuple(sorted(keeping)),
            seconds=self._ended - self._began,
        )


def plan_of(hosts: RealHosts, case: Case) -> LaunchPlan:
    inventory, job = hosts.folder / "inventory.yaml", hosts.folder / "job.yaml"
    inventory.write_text(yaml.safe_dump(hosts.inventory()))
    keys = {
        "name": "job",
        "task": "command",
        "devices_per_host": 2,
        "command": hosts.command(WORLD, case.steps, case.term),
        "networking": {"mode": "none"},
        "timeouts": {**TIMEOUTS, "lost": case.lost},
    }
    job.write_text(yaml.safe_dump(keys))
    return make_plan(load_job(job), load_inventory(inventory))


def really(case: Case, plan: LaunchPlan, hosts: RealHosts) -> Found:
    episode = Episode(case, hosts.befall, time.monotonic)
    episode._back = case.faults[-1:] == [("ended", BACK)]
    hosts.run(plan, episode.told, LIMIT)
    # What a launch has left undone ends by its lease.
    record = episode.record
    assert record is not None
    if record.cause is None and record.exit_code not in (0, 1):
        time.sleep(0.0 if not hosts.workers() and not hosts.keeping(plan.run_id) else TIMEOUTS["prepare"] + 3)
    return episode.found(list(hosts.workers()), hosts.keeping(plan.run_id))


def simulated(case: Case, plan: LaunchPlan, folder: Path) -> Found:
    load = Workload(
        imports=gang_worker.IMPORTS + 0.1,
        spread=0.05,
        first_step=gang_worker.STEP,
        step=gang_worker.STEP,
        steps=case.steps or None,
        save_every=gang_worker.SAVE_EVERY,
        save=gang_worker.SAVE,
        term=case.term,
        peer_timeout=1e6,
    )
    heard: list[Episode] = []
    simulation = Simulation(
        plan,
        folder,
        workload=load,
        hours=0.1,
        jumps=False,
        told=lambda record: heard[0].told(record) and None,
    )
    cluster, world = simulation.cluster, simulation.world
    heard.append(Episode(case, cluster.apply, lambda: world.now))
    outcome = simulation.run()
    keeping = {name for name, host in cluster.hosts.items() if plan.run_id in host.runs}
    return heard[0].found(outcome.orphans, keeping)


def are_near(one: float, other: float) -> bool:
    return abs(one - other) <= max(0.5, 0.2 * max(one, other))


@pytest.mark.root
@pytest.mark.sshd
@pytest.mark.skipif(bool(WHY_NOT), reason=f"no real hosts: {WHY_NOT}")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if ALL or case.is_quick])
def test_what_is_simulated_is_what_happens(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    real: list[float] = []
    for number in range(TRIES):
        with real_hosts(tmp_path / f"real{number}") as hosts:
            plan = plan_of(hosts, case)
            expected = simulated(case, plan, tmp_path / f"simulated{number}")
            found = really(case, plan, hosts)
        one, other = (found.blurred(), expected.blurred()) if case.is_race else (found, expected)
        assert one == other, f"\nreal      {found}\nsimulated {expected}"
        real.append(found.seconds)
        print(f"\n{name}: {found}\nsimulated {expected}")
        # Only time may be the machine's fault.
        if not ALL or not case.is_timed or are_near(found.seconds, expected.seconds):
            return
    assert are_near(sorted(real)[len(real) // 2], expected.seconds), (real, expected.seconds)
