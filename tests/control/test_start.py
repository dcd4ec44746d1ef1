"""All hosts prove that they hold the same rank table before any worker starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control.start import start_run
from orchestrator.core.errors import AgentError
from orchestrator.hosts.fleet import HostResults
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory, job

HOSTS = "hosts:\n  - {name: 'n[1-3]', address: '10.0.0.[1-3]', devices: 0, device_ips: '29.1.0.[1-3]'}\n"
JOB = "name: x\ntask: command\ndevices_per_host: 1\ncommand: [run]\nnetworking: {mode: rank_table}\n"


class FakeSession:
    """A host whose agent does what it is told; `changes` is what it does to the files that it gets."""

    def __init__(self, host: str, changes: Callable[[str], str] = str) -> None:
        self.host = host
        self.asked: list[str] = []
        self._changes = changes

    def call(self, verb: str, *, payload: bytes = b"", **args: Any) -> Any:
        self.asked.append(verb)
        if verb == "prepare":
            bundle = json.loads(payload)
            files = {"worker.yaml": bundle["worker_config"], "rank_table.json": bundle["rank_table"]}
            changed = {name: self._changes(text) for name, text in files.items()}
            return {"hashes": {name: _sha256(text) for name, text in changed.items()}}
        return {"failed_first": ""} if verb == "start" else []


class FakeFleet:
    """Sessions that are there; one after the other."""

    def __init__(self, sessions: Iterable[FakeSession]) -> None:
        self.sessions = {session.host: session for session in sessions}

    def each(self, work: Callable[[Any], Any]) -> HostResults[Any]:
        return HostResults({name: work(session) for name, session in self.sessions.items()}, {})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _plan(folder: Path) -> LaunchPlan:
    return make_plan(job(folder, JOB), inventory(folder, HOSTS))


def _start(plan: LaunchPlan, fleet: FakeFleet) -> list[str]:
    phases: list[str] = []
    start_run(plan, fleet, phases.append)  # type: ignore[arg-type]
    return phases


def test_equal_tables_are_started(tmp_path: Path) -> None:
    fleet = FakeFleet(FakeSession(name) for name in ("n1", "n2", "n3"))
    assert _start(_plan(tmp_path), fleet)[-2:] == ["preparing", "starting"]
    assert all(session.asked[-3:] == ["prepare", "start", "commit"] for session in fleet.sessions.values())


def test_another_table_on_one_host_starts_no_worker_anywhere(tmp_path: Path) -> None:
    stale = FakeSession("n2", lambda text: text.replace("29.1.0.3", "29.1.0.9"))
    fleet = FakeFleet([FakeSession("n1"), stale, FakeSession("n3")])
    with pytest.raises(AgentError) as caught:
        _start(_plan(tmp_path), fleet)
    assert str(caught.value).startswith("n2: rank_table.json is not the one that was sent: SHA-256 ")
    for session in fleet.sessions.values():
        assert "start" not in session.asked and session.asked[-1] == "undo"
