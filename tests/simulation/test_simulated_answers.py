"""Simulated answers against a real agent's: the same keys and types, verb by verb, in one conversation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.inventory import Host
from orchestrator.core.codec import to_json
from orchestrator.core.errors import AgentError
from orchestrator.core.records import Manifest, WorkerSpec
from orchestrator.hosts.agent_zip import agent_bundle
from orchestrator.hosts.conversation import Limits
from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.session import Session
from orchestrator.hosts.transport import Transport
from orchestrator.simulation.cluster import Cluster
from orchestrator.simulation.sim_transport import SimTransport
from orchestrator.simulation.virtual_scheduling import VirtualScheduling
from orchestrator.simulation.virtual_time import World
from orchestrator.simulation.workload import Workload
from orchestrator.testing.waiting import eventually

RUN = "run-1"
PACKAGES = ["mindspore", "no_such_package"]


def manifest_of() -> Manifest:
    worker = WorkerSpec("rank_0", 0, 0, 0, ("/bin/sh", "-c", "sleep 60"))
    return Manifest(RUN, "job", "here", 1.0, (worker,), devices=(0,), grace=5.0, lease=60.0, world_size=1)


def conversation(session: Session, pause: Any) -> Iterator[tuple[str, Any]]:
    """What a host says to each verb of a run from its launch to its end; a refusal is its kind."""

    def ask(verb: str, payload: bytes = b"", **args: Any) -> tuple[str, Any]:
        limits = Limits(1 << 24, 1 << 24, items=1 << 20, answers=100)
        try:
            *_, (result, _data) = session.stream(verb, args, limits, payload=payload, timeout=30.0)
        except AgentError as refusal:
            return verb, {"refused": refusal.kind}
        return verb, result

    bundle = {"manifest": to_json(manifest_of()), "worker_config": "a: 1\n", "rank_table": None}
    payload = json.dumps(bundle).encode()
    yield ask("clock")
    yield ask("busy_devices", devices=[0], lock_dir=None)
    yield ask(
        "probe", devices=[0], packages=PACKAGES, port_on="", ports=[1], paths=["/tmp"], env={}, address=""
    )
    yield ask("addresses", names=[], candidates=["203.0.113.9"])
    yield ask("require_port", address="", port=0)
    yield ask("ask_tools", calls=[["npu-smi", "info"]], files=["/none"], tool_timeout=5.0, parallel=2)
    yield ask("missing", hashes=["0" * 64])
    yield ask("push", b"x", sha256="0" * 64, size=1)
    yield ask("status", run_id=RUN)
    yield ask("start", run_id=RUN)
    yield ask("undo", run_id=RUN)
    yield ask("prepare", payload)
    yield ask("prepare", payload)
    yield ask("busy_devices", devices=[0], lock_dir=None)
    yield ask("status", run_id=RUN)
    yield ask("start", run_id=RUN)
    yield ask("commit", run_id=RUN)
    yield ask("status", run_id=RUN)
    yield ask("watch", run_id=RUN, since=None, every=1.0, beat=5.0)
    yield ask("list_runs")
    yield ask("list_plogs", run_id=RUN)
    yield ask("evidence", run_id=RUN, seconds=10.0)
    yield ask("read_log", run_id=RUN, label="rank_3", offset=0, limit=10)
    yield ask("remove_run", run_id=RUN, dry_run=True)
    yield ask("stop", run_id=RUN, reason="enough", why={"kind": "requested", "text": "enough"})
    pause(lambda: ask("status", run_id=RUN)[1]["phase"] == "over")
    yield ask("status", run_id=RUN)
    yield ask("stop", run_id=RUN, reason="again")
    yield ask("start", run_id=RUN)
    yield ask("disk_use")
    yield ask("nonsense")


def shape(value: Any) -> Any:
    """The keys and types of JSON; numbers are of one type, and of a list's values each kind once."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(each), sort_keys=True) for each in value})
    if isinstance(value, bool) or value is None:
        return str(value)
    return "number" if isinstance(value, (int, float)) else "text"


def session_over(transport: Transport, workdir: Path, **more: Any) -> Session:
    transport.connect()

    return Session(transport, python=sys.executable, workdir=str(workdir), bundle=agent_bundle(), **more)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Any]]:
    """What an agent of this machine says."""
    folder = tmp_path_factory.mktemp("real")
    with LocalTransport("here") as transport:
        session = session_over(transport, folder)
        try:
            return list(conversation(session, lambda is_so: eventually(is_so, what="the end of the run")))
        finally:
            session.close()


@pytest.fixture(scope="module")
def simulated() -> list[tuple[str, Any]]:
    world = World()
    clock = VirtualScheduling(world)
    cluster = Cluster(world, [Host(name="here", address="10.0.0.1")], Workload(), ascend=False)

    def pause(is_so: Any) -> None:
        while not is_so():
            clock.sleep(0.1)

    def main() -> list[tuple[str, Any]]:
        transport = SimTransport(cluster.hosts["here"], cluster.traffic)
        session = session_over(transport, Path("/sim"), clock=clock.monotonic)
        return list(conversation(session, pause))

    return world.run(main)


# What this machine happens to have, or what says nothing of the answer's form.
_OPEN = {
    "probe": {
        "packages",
        "environment",
        "limits",
        "shm_free_bytes",
        "memory_free_bytes",
        "taken_ports",
        "missing_paths",
        "pid",
    },
    "addresses": {"network", "own"},
    "evidence": {"logs", "kernel", "disks", "unread", "kills_in_groups", "kills_on_host", "memory_limit"},
}


def test_a_simulated_host_answers_as_a_real_one(
    real: list[tuple[str, Any]], simulated: list[tuple[str, Any]]
) -> None:
    assert [verb for verb, _ in real] == [verb for verb, _ in simulated]
    for (verb, theirs), (_, ours) in zip(real, simulated, strict=True):
        if isinstance(theirs, dict) and isinstance(ours, dict):
            assert set(theirs) == set(ours), verb
            left_out = _OPEN.get(verb, set())
            theirs, ours = (
                {name: each for name, each in said.items() if name not in left_out} for said in (theirs, ours)
            )
        assert shape(theirs) == shape(ours), verb


def test_the_phases_and_ends_of_both_are_the_same(
    real: list[tuple[str, Any]], simulated: list[tuple[str, Any]]
) -> None:
    def told(said: list[tuple[str, Any]]) -> list[Any]:
        found = []
        for verb, answer in said:
            if verb == "status" and "ranks" in answer:
                ends = [(rank["state"], (rank["end"] or {}).get("signal")) for rank in answer["ranks"]]
                found.append((answer["phase"], ends))
            elif isinstance(answer, dict) and ("phase" in answer or "refused" in answer):
                found.append((verb, answer.get("phase"), answer.get("refused")))
        return found

    assert told(real) == told(simulated)
    assert ("over", [("stopped", 15)]) in told(real)
