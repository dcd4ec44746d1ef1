"""Supervisors of another version: the line to them, on both sides, as afcecfb spoke it.

An agent is sent by its control node, and is of its version. A supervisor is not: it lives as long as its run,
and control nodes of other versions ask it.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.control_socket import listen
from orchestrator.agent.processes import identify
from orchestrator.core.ends import StopReason
from orchestrator.core.paths import atomic_write
from orchestrator.core.push import OF_FILES, Beat, Snapshot
from orchestrator.testing.agent_host import RUN, AgentHost, sh
from tests.agent.watching import Watching
from tests.fixtures.written import restore

WRITTEN = Path(__file__).parents[1] / "fixtures" / "afcecfb"


class OldSupervisor(threading.Thread):
    """Answers on a run's socket as afcecfb does, a line of JSON for each; `heard` are the requests."""

    def __init__(self, socket_path: Path) -> None:
        super().__init__(daemon=True)
        self.heard: list[dict[str, Any]] = []
        self.phase = "committed"
        self._listener = listen(socket_path)
        self._listener.setblocking(True)
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                request = json.loads(lines.readline())
                self.heard.append(request)
                if request["verb"] not in ("start", "commit", "stop", "undo", "status"):
                    continue  # as it does with what it does not know
                if request["verb"] == "stop":
                    self.phase = "stopping"
                answer = {"phase": self.phase, "failed_first": "", "reason": ""}
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def going(host: AgentHost, tmp_path: Path) -> Iterator[tuple[str, OldSupervisor]]:
    """A run that afcecfb left in the middle, and its supervisor: this process, as far as /proc tells."""
    restore(WRITTEN, tmp_path / "old")
    (run,) = (tmp_path / "old/hosts/host1/runs").glob("going-*")
    host.workdir.runs.mkdir(parents=True)
    shutil.move(run, host.workdir.runs / run.name)
    found = host.workdir.run(run.name)
    status = json.loads(found.status.read_text())
    me = identify(threading.get_native_id())
    assert me is not None
    status["supervisor"] = status["guardian"] = {
        "pid": me.pid,
        "start_time": me.start_time,
        "boot_id": me.boot_id,
    }
    found.status.write_text(json.dumps(status))
    supervisor = OldSupervisor(found.control_socket)
    yield run.name, supervisor
    supervisor.close()
    shutil.rmtree(host.workdir.runs / run.name)  # before anybody takes this process for a supervisor


def test_a_run_of_an_older_supervisor_is_watched_and_stopped(
    host: AgentHost, going: tuple[str, OldSupervisor]
) -> None:
    run, supervisor = going
    agent = host.new_agent()
    status = agent.status(run, world_size=4)
    assert status.phase == "committed" and [str(rank.state) for rank in status.ranks] == ["running"] * 2
    assert [each.manifest.run_id for each in agent.list_runs() if each.manifest] == [run]
    assert agent.commit(run).phase == "committed"
    assert agent.stop(run, StopReason.requested("enough")).phase == "stopping"
    assert supervisor.heard[0] == {"verb": "commit", "run_id": run}
    # It takes `reason`, a text, and leaves what it does not know.
    assert supervisor.heard[1].items() >= {"verb": "stop", "run_id": run, "reason": "enough"}.items()
    _, log = agent.read_log(run, status.ranks[0].label, 0, 100)
    assert log == b"asleep\n"
    agent.close()


def test_a_run_of_an_older_supervisor_is_told_as_its_files_have_it(
    host: AgentHost, going: tuple[str, OldSupervisor]
) -> None:
    run, supervisor = going
    path = host.run_dir(run).status
    watching = Watching(host.workdir.root)
    try:
        assert watching.watch(run, every=0.05, beat=0.2)["sequence"] >= OF_FILES
        first = watching.next()
        assert isinstance(first, Snapshot) and first.supervisor == first.status.supervisor
        assert [str(rank.state) for rank in first.status.ranks] == ["running"] * 2
        assert watching.next().sequence == first.sequence  # its age is news: it was written long ago
        status = {**json.loads(path.read_text()), "updated": time.time()}
        atomic_write(path, json.dumps(status))
        *_, beat = watching.until(lambda event: not isinstance(event, Snapshot))
        assert isinstance(beat, Beat) and beat.sequence == first.sequence
        status["ranks"][0]["progress"] = {"step": 3}
        atomic_write(path, json.dumps(status))
        told = watching.next()
        assert isinstance(told, Snapshot) and told.sequence == first.sequence + 1
        assert told.status.ranks[0].progress == {"step": 3}
        assert watching.ask("stop", run_id=run, reason="enough")["phase"] == "stopping"
        assert [request["verb"] for request in supervisor.heard] == ["watch", "stop"]
    finally:
        watching.close()


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """As an agent of afcecfb asks."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        found: dict[str, Any] = json.loads(connection.makefile("rb").readline())
        return found


def test_todays_supervisor_understands_an_older_agent(tmp_path: Path) -> None:
    host = AgentHost(tmp_path)  # a short path, which a socket's address has room for
    try:
        host.prepare(host.manifest(sh("sleep 300"), sh("sleep 300")))
        path = host.run_dir().control_socket
        for verb, phase in (("status", "prepared"), ("start", "started"), ("commit", "committed")):
            answer = ask(path, {"verb": verb, "run_id": RUN})
            assert answer["phase"] == phase and not answer["failed_first"]
            assert {"phase", "failed_first", "reason"} <= answer.keys()
        # Its agent, which reads the files itself, sees the number of a newer format.
        assert json.loads(host.run_dir().status.read_text())["format"] > 2
        assert ask(path, {"verb": "stop", "run_id": RUN, "reason": "enough"})["phase"] == "stopping"
        host.wait_over()
    finally:
        host.close()
