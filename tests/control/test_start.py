"""All hosts prove that they hold the same rank table before any worker starts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.start import start_run
from orchestrator.core.errors import AgentError
from orchestrator.core.host_answers import Prepared, Sha256, Told
from orchestrator.core.records import Manifest
from orchestrator.hosts.fleet import HostResults
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job

HOSTS = "hosts:\n  - {name: 'n[1-3]', address: '10.0.0.[1-3]', devices: 0, device_ips: '29.1.0.[1-3]'}\n"
JOB = "name: x\ntask: command\ndevices_per_host: 1\ncommand: [run]\nnetworking: {mode: rank_table}\n"


class FakeAgent:
    """An agent that does what it is told; `changes` is what its host does to the files that it gets."""

    def __init__(self, host: str, changes: Callable[[str], str] = str) -> None:
        self.host = host
        self.asked: list[str] = []
        self._changes = changes

    def missing(self, hashes: list[str]) -> list[str]:
        return []

    def prepare(self, manifest: Manifest, worker_config: str, rank_table: str, *, timeout: float) -> Prepared:
        self.asked.append("prepare")
        files = {"worker.yaml": worker_config, "rank_table.json": rank_table}
        return Prepared({name: _sha256(self._changes(text)) for name, text in files.items()})

    def start(self, run_id: str) -> Told:
        self.asked.append("start")
        return Told("started")

    def commit(self, run_id: str) -> None:
        self.asked.append("commit")

    def undo(self, run_id: str) -> None:
        self.asked.append("undo")


class FakeFleet:
    """Agents that are there; one after the other."""

    def __init__(self, agents: Iterable[FakeAgent]) -> None:
        self.agents = {agent.host: agent for agent in agents}

    def each(self, work: Callable[[Any], Any]) -> HostResults[Any]:
        return HostResults({name: work(agent) for name, agent in self.agents.items()}, {})


def _sha256(text: str) -> Sha256:
    return Sha256(hashlib.sha256(text.encode()).hexdigest())


def _plan(folder: Path) -> LaunchPlan:
    return make_plan(job(folder, JOB), inventory(folder, HOSTS))


def _start(plan: LaunchPlan, fleet: FakeFleet) -> list[str]:
    phases: list[str] = []
    start_run(plan, fleet, phases.append)  # type: ignore[arg-type]
    return phases


def test_equal_tables_are_started(tmp_path: Path) -> None:
    fleet = FakeFleet(FakeAgent(name) for name in ("n1", "n2", "n3"))
    assert _start(_plan(tmp_path), fleet)[-2:] == ["preparing", "starting"]
    assert all(agent.asked[-3:] == ["prepare", "start", "commit"] for agent in fleet.agents.values())


def test_another_table_on_one_host_starts_no_worker_anywhere(tmp_path: Path) -> None:
    stale = FakeAgent("n2", lambda text: text.replace("29.1.0.3", "29.1.0.9"))
    fleet = FakeFleet([FakeAgent("n1"), stale, FakeAgent("n3")])
    with pytest.raises(AgentError) as caught:
        _start(_plan(tmp_path), fleet)
    assert str(caught.value).startswith("n2: rank_table.json is not the one that was sent: SHA-256 ")
    for agent in fleet.agents.values():
        assert "start" not in agent.asked and agent.asked[-1] == "undo"
