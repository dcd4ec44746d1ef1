"""A small plan for simulated runs, and one run of it."""

from __future__ import annotations

import functools
import random
from pathlib import Path

from orchestrator.config.inventory import Host, Inventory
from orchestrator.config.job_file import load_job
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.simulation.cluster import synthetic_inventory
from orchestrator.simulation.faults import Fault
from orchestrator.simulation.simulate import Outcome, Simulation
from orchestrator.simulation.timeline import EPOCH
from orchestrator.simulation.workload import Workload

JOB = """\
name: sim
task: command
command: [sleep, "100"]
devices_per_host: {ranks}
device_target: {target}
networking: {{mode: {mode}}}
timeouts: {{unreachable: 60, lost: 600, prepare: 60, grace: 5}}
"""


def plan_of(folder: Path, hosts: int = 3, ranks: int = 2, *, ascend: bool = False) -> LaunchPlan:
    """A launch of a command on so many hosts, node0001 and so on."""
    job = folder / "job.yaml"
    target, mode = ("Ascend", "rank_table") if ascend else ("CPU", "dynamic")
    job.write_text(JOB.format(ranks=ranks, target=target, mode=mode))
    first = Host(name="first", address="10.0.0.1", chip="910B" if ascend else None)
    inventory = Inventory(path=folder / "inventory.yaml", hosts=(first,))
    token = random.Random(1)  # a plan that is the same in every process
    return make_plan(
        load_job(job),
        synthetic_inventory(inventory, hosts, ranks),
        now=EPOCH,
        token=lambda count: token.randbytes(count).hex(),
    )


class Runs:
    """Runs of one plan, each with a state directory of its own."""

    def __init__(self, plan: LaunchPlan, folder: Path) -> None:
        self.plan = plan
        self._folder = folder
        self._count = 0

    def simulation(
        self,
        *faults: Fault,
        workload: Workload | None = None,
        hours: float = 1.0,
        seed: int = 0,
        jumps: bool = True,
    ) -> Simulation:
        self._count += 1
        return Simulation(
            self.plan,
            self._folder / str(self._count),
            workload=workload or Workload(steps=100, peer_timeout=300.0),
            faults=faults,
            hours=hours,
            seed=seed,
            jumps=jumps,
            limit=100.0,
        )

    def __call__(self, *faults: Fault, **options: object) -> Outcome:
        return self.simulation(*faults, **options).run()  # type: ignore[arg-type]


power_off = functools.partial(Fault, kind="power_off", host="node0002")
back = functools.partial(Fault, kind="return", host="node0002")
