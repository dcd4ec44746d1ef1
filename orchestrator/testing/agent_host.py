"""A host for tests: a folder of this machine, and a real agent session to it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.agent.processes import identify, is_alive
from orchestrator.agent.status_file import StatusFile
from orchestrator.core.codec import from_json, load, to_json
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.records import HostStatus, Manifest, ProcessId, WorkerSpec
from orchestrator.core.spare_records import SpareNote
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.agent_zip import agent_bundle
from orchestrator.hosts.conversation import Limits
from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.session import Payload, Session
from orchestrator.testing.waiting import eventually

__all__ = ["RUN", "AgentHost", "RawAgent", "processes_in", "sh"]

RUN = "run-1"


def sh(text: str) -> tuple[str, ...]:
    """The argv of a worker that is a shell script."""
    return ("/bin/sh", "-c", text)


def processes_in(folder: Path) -> list[int]:
    """Every process that works in `folder` (workers and all they start do, unless they go elsewhere)."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                found.append(int(entry.name))
    return found


class RawAgent:
    """Asks an agent anything and takes what it says as it is: for tests of the agent itself."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.close = session.close

    def call(self, verb: str, *, payload: Payload = b"", timeout: float | None = None, **args: Any) -> Any:
        """The last answer."""
        return self.call_with_data(verb, payload=payload, timeout=timeout, **args)[0]

    def call_with_data(
        self, verb: str, *, payload: Payload = b"", timeout: float | None = None, **args: Any
    ) -> tuple[Any, bytes]:
        """The last answer, and the bytes behind it."""
        limits = Limits(1 << 26, 1 << 26, items=1 << 22, answers=1 << 20)
        *_, (result, data) = self._session.stream(verb, args, limits, payload=payload, timeout=timeout)
        return result, bytes(data)


class AgentHost:
    """Prepares, starts and ends runs through a session, as the control node does."""

    def __init__(self, workdir: Path, python: str = sys.executable) -> None:
        self.workdir = Workdir(workdir)
        self.transport = LocalTransport("here")
        self.transport.connect()
        self.python = python
        self.session = self.new_session()

    def new_session(self, timeout: float = 30.0) -> RawAgent:
        return RawAgent(self._connect(timeout))

    def new_agent(self, timeout: float = 30.0) -> Agent:
        """The client, with a session of its own; to be closed."""
        return Agent(self._connect(timeout))

    def _connect(self, timeout: float) -> Session:
        return Session(
            self.transport,
            python=self.python,
            workdir=str(self.workdir.root),
            bundle=agent_bundle(),
            timeout=timeout,
        )

    def run_dir(self, run_id: str = RUN) -> RunDir:
        return self.workdir.run(run_id)

    def manifest(self, *commands: Sequence[str], **changes: Any) -> Manifest:
        """One worker per command, on devices 0, 1, …"""
        workers = tuple(
            WorkerSpec(f"rank_{rank}", rank, rank, rank, tuple(argv)) for rank, argv in enumerate(commands)
        )
        manifest = Manifest(
            run_id=RUN,
            job="job",
            host="here",
            created=time.time(),
            workers=workers,
            devices=tuple(range(len(workers))),
            address="127.0.0.1",
            grace=1.0,
            lease=30.0,
        )
        return dataclasses.replace(manifest, **changes)

    def prepare(self, manifest: Manifest, rank_table: str | None = None) -> Any:
        bundle = {"manifest": to_json(manifest), "worker_config": "a: 1\n", "rank_table": rank_table}
        return self.session.call("prepare", payload=json.dumps(bundle).encode())

    def tell(self, verb: str, run_id: str = RUN, **args: Any) -> Any:
        return self.session.call(verb, run_id=run_id, **args)

    def launch(self, *commands: Sequence[str], **changes: Any) -> Manifest:
        """Prepare, start and commit."""
        manifest = self.manifest(*commands, **changes)
        self.prepare(manifest)
        self.tell("start", manifest.run_id)
        self.tell("commit", manifest.run_id)
        return manifest

    def status(self, run_id: str = RUN) -> HostStatus:
        return from_json(HostStatus, self.tell("status", run_id))

    def states(self, run_id: str = RUN) -> list[str]:
        return [str(rank.state) for rank in self.status(run_id).ranks]

    def wait_over(self, run_id: str = RUN, timeout: float = 60.0) -> HostStatus:
        eventually(lambda: self.status(run_id).is_over, timeout, "over")
        return self.status(run_id)

    def wait_file(self, name: str, run_id: str = RUN) -> str:
        """The content of a file that a worker writes into its cwd, once there is some."""
        path = self.run_dir(run_id).root / name
        return str(eventually(lambda: path.exists() and path.read_text().strip(), what=name))

    def wait_up(self, *names: str, run_id: str = RUN) -> None:
        for name in names:
            eventually((self.run_dir(run_id).root / name).exists, what=name)

    def escaped(self, name: str = "escaped", run_id: str = RUN) -> ProcessId:
        """The process whose pid is in this file of the run."""
        process = identify(int(self.wait_file(name, run_id)))
        assert process is not None
        return process

    def busy(self, *devices: int) -> list[int]:
        return list(self.session.call("probe", devices=devices)["busy_devices"])

    def spare_holders(self) -> list[ProcessId | None]:
        """Who holds this host ready, by the notes that are there."""
        notes = self.workdir.spares.glob("*/holder.json")
        return [load(SpareNote, path, self.workdir.spares).holder for path in notes]

    def close(self) -> None:
        """End whatever a test has left running, by the recorded identities."""
        for path in self.workdir.runs.glob("*/status.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                status = StatusFile(path, self.workdir.runs).read()
                for process in (status.supervisor, status.guardian):
                    if process is not None and is_alive(process):
                        os.kill(process.pid, signal.SIGKILL)
        for holder in self.spare_holders():
            if holder is not None and is_alive(holder):
                os.kill(holder.pid, signal.SIGKILL)
        for pid in processes_in(self.workdir.root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.session.close()
        self.transport.close()
