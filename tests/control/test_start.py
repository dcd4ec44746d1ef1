"""All hosts prove that they hold the same rank table before any worker starts."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.start import start_run
from orchestrator.core.errors import AgentError, OrchestrateError, PreflightError
from orchestrator.core.host_answers import Prepared, Sha256, Told
from orchestrator.core.records import Manifest
from orchestrator.hosts.fleet import HostResults
from orchestrator.hosts.scheduling import SYSTEM
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

    scheduling = SYSTEM

    def __init__(self, agents: Iterable[FakeAgent]) -> None:
        self.agents = {agent.host: agent for agent in agents}

    def each(self, work: Callable[[Any], Any]) -> HostResults[Any]:
        values, errors = {}, {}
        for name, agent in self.agents.items():
            try:
                values[name] = work(agent)
            except OrchestrateError as error:
                errors[name] = error
        return HostResults(values, errors)


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


class SharedHost(FakeAgent):
    """A host whose device another launch may hold."""

    def __init__(self, host: str, taken: set[str]) -> None:
        super().__init__(host)
        self._taken = taken

    def prepare(self, manifest: Manifest, worker_config: str, rank_table: str, *, timeout: float) -> Prepared:
        found = super().prepare(manifest, worker_config, rank_table, timeout=timeout)
        if self.host in self._taken:
            raise AgentError("device 0 is in use", where=self.host, kind="device_busy")
        return found

    def busy_devices(self, devices: Any, lock_dir: str | None, run_id: str = "") -> list[int]:
        self.asked.append("busy")
        return [0] if self.host in self._taken else []


def test_of_two_launches_at_once_the_one_that_finds_the_devices_free_again_wins(tmp_path: Path) -> None:
    taken, waited = {"n2"}, []
    fleet = FakeFleet(SharedHost(name, taken) for name in ("n1", "n2", "n3"))

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            taken.clear()  # the other one has let go, too
        else:
            taken.symmetric_difference_update({"n2", "n3"})  # it was quicker, and met a third

    for agent in fleet.agents.values():
        agent.busy_devices = lambda *_: []  # type: ignore[method-assign]
    start_run(_plan(tmp_path), fleet, lambda phase: None, sleep=sleep, chance=lambda: 0.5)  # type: ignore[arg-type]
    assert waited == pytest.approx([0.3, 0.6])
    for agent in fleet.agents.values():
        assert agent.asked == ["prepare", "undo", "prepare", "undo", "prepare", "start", "commit"]


def test_a_disk_that_is_full_here_keeps_no_host_from_being_undone(tmp_path: Path) -> None:
    fleet = FakeFleet(SharedHost(name, {"n2"}) for name in ("n1", "n2"))

    def report(phase: str) -> None:
        if phase == "undoing":
            raise OSError(28, "No space left on device")

    plan = make_plan(job(tmp_path, JOB), inventory(tmp_path, HOSTS.replace("1-3", "1-2")))
    with pytest.raises(PreflightError, match="in use"):
        start_run(plan, fleet, report, sleep=lambda _: None)  # type: ignore[arg-type]
    assert all(agent.asked[-1] == "undo" for agent in fleet.agents.values())


def test_devices_that_stay_taken_end_the_launch_with_its_holder(tmp_path: Path) -> None:
    fleet = FakeFleet(SharedHost(name, {"n2"}) for name in ("n1", "n2", "n3"))
    with pytest.raises(PreflightError, match="n2: device 0 is in use"):
        start_run(_plan(tmp_path), fleet, lambda phase: None, sleep=lambda _: None)  # type: ignore[arg-type]
    for agent in fleet.agents.values():
        assert agent.asked == ["prepare", "undo", "busy", "undo"]


class Receiving(SharedHost):
    """A host that is told what to put into its store; its device is free from the second time on."""

    def __init__(self, host: str, taken: set[str]) -> None:
        super().__init__(host, taken)
        self.got: list[Mapping[str, bytes]] = []
        self.pushed: list[str] = []

    def missing(self, hashes: list[str]) -> list[str]:
        return hashes

    def push(self, sha256: str, content: Any, *, timeout: float) -> None:
        self.pushed.append(sha256)

    def prepare(  # type: ignore[override]
        self,
        manifest: Manifest,
        worker_config: str,
        rank_table: str,
        *,
        contents: Mapping[str, bytes] | None = None,
        timeout: float,
    ) -> Prepared:
        self.got.append(contents or {})
        return super().prepare(manifest, worker_config, rank_table, timeout=timeout)


@pytest.mark.parametrize("size", [5, 1 << 15], ids=["small", "large"])
def test_a_small_file_goes_with_the_request_and_a_large_one_before_it(tmp_path: Path, size: int) -> None:
    data = b"x" * size
    sha256 = hashlib.sha256(data).hexdigest()
    (tmp_path / "train.py").write_bytes(data)
    plan = dataclasses.replace(_plan(tmp_path), sources={sha256: tmp_path / "train.py"})
    taken = {"n2"}
    agents = [Receiving(name, taken) for name in ("n1", "n2", "n3")]

    def sleep(seconds: float) -> None:
        taken.clear()

    start_run(plan, FakeFleet(agents), lambda phase: None, sleep=sleep)  # type: ignore[arg-type]
    for agent in agents:
        expected = {sha256: data} if size == 5 else {}
        assert agent.got == [expected, expected]  # twice, as n2 was not free at first
        assert agent.pushed == ([] if size == 5 else [sha256])
