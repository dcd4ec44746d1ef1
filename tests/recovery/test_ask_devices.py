"""What devices tell when an attempt has ended, of an agent and stand-in tools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.control.decisions import Level
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.recovery.ask_devices import ask_devices, ask_for_evidence
from orchestrator.testing.agent_host import RUN, AgentHost, sh
from orchestrator.testing.standin_facts import host_facts
from orchestrator.testing.standin_host import FakeHost

FACTS = host_facts(0, count=2)
PLAN: Any = SimpleNamespace(run_id=RUN, manifests={"a": SimpleNamespace(devices=(0, 1))})


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    made = FakeHost(tmp_path / "machine", FACTS, tmp_path / "network")
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    return made


@pytest.fixture
def fleet(tmp_path: Path, tools: FakeHost) -> Iterator[Fleet]:
    """A host on which a run has failed."""
    host = AgentHost(tmp_path / "host")
    host.launch(sh("exit 1"))
    host.wait_over(timeout=60)
    there = Host(name="a", address="a", transport="local", workdir=str(tmp_path / "host"))
    with fleet_of([there], SshOptions()) as fleet:
        yield fleet
    host.close()


def test_devices_of_hosts_that_answer_tell_their_codes(fleet: Fleet, tools: FakeHost) -> None:
    assert ask_devices(fleet, PLAN, ["a"], 5.0, limit=60.0) == ()
    tools.become(FACTS.change(1, health="Alarm", error_code="80E18402"))
    (fault,) = ask_devices(fleet, PLAN, ["a", "unknown"], 5.0, limit=60.0)
    assert (fault.host, fault.device, fault.code, fault.level, fault.time) == (
        "a",
        1,
        "80E18402",
        Level.DRAIN,
        5.0,
    )


def test_a_tool_that_hangs_and_a_run_that_is_not_there_tell_nothing(
    fleet: Fleet, tools: FakeHost, caplog: pytest.LogCaptureFixture
) -> None:
    other: Any = SimpleNamespace(**{**vars(PLAN), "run_id": "run-2"})
    assert ask_devices(fleet, other, ["a"], 5.0, limit=60.0) == ()
    assert "a: its devices cannot be asked how they are: " in caplog.text
    faulty = FACTS.change(1, health="Alarm", error_code="80E18402")
    tools.become(faulty.__class__(**{**vars(faulty), "faults": {"npu-smi": "hang"}}))
    assert ask_devices(fleet, PLAN, ["a"], 5.0, limit=1.5) == ()


def test_where_it_is_not_sure_who_failed_logs_and_devices_are_one_case(tmp_path: Path) -> None:
    host = AgentHost(tmp_path / "host")
    host.launch(sh("echo 'RuntimeError: Exec graph failed'; exit 1"))
    host.wait_over(timeout=60)
    there = Host(name="a", address="a", transport="local", workdir=str(tmp_path / "host"))
    gone = Host(name="b", address="b", transport="local", workdir="/proc/no/such/folder")
    manifest = SimpleNamespace(devices=(), scheduler=None, address="")
    place = SimpleNamespace(rank=0, host="a", device_id=0, device_ip="")
    plan: Any = SimpleNamespace(
        run_id=RUN,
        manifests={"a": manifest},
        hosts=[there, gone],
        placements=(place,),
        ascend=False,
        rank_table=None,
    )
    views = {"a": HostView(), "b": HostView()}
    record = RunRecord(run_id=RUN, job="j", task="command", world_size=1, created=0.0, hosts=views)
    with fleet_of([there, gone], SshOptions()) as fleet:
        case = ask_for_evidence(fleet, record, plan, ["a"], limit=60.0)
    host.close()
    assert "RuntimeError: Exec graph failed" in [line.text for rank in case.ranks for line in rank.lines]
    assert set(case.hosts) == {"a", "b"}
