"""A simulated host: power, clock, disk, devices, its runs, and the sessions of its agents."""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.config.inventory import Host
from orchestrator.core.claims import Tombstone
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.protocol import frame
from orchestrator.core.record_class import replace
from orchestrator.core.records import Claim, HostStatus, Manifest, ProcessId, RankStatus
from orchestrator.core.states import RankState
from orchestrator.simulation.sim_agent import DirectSimAgent, SimAgent, SimProgram
from orchestrator.simulation.sim_keeping import Keeping
from orchestrator.simulation.sim_process import SimProcess, SimRun
from orchestrator.simulation.sim_supervisor import SimSupervisor
from orchestrator.simulation.sim_transport import Link
from orchestrator.simulation.sim_values import DIRECT
from orchestrator.simulation.timeline import EPOCH
from orchestrator.simulation.virtual_time import World
from orchestrator.simulation.workload import Gang
from orchestrator.testing.standin_facts import host_facts
from orchestrator.testing.standin_tools import answers as tool_answers
from orchestrator.testing.standin_tools import hccn_conf

if TYPE_CHECKING:
    from orchestrator.simulation.sim_agent import SimAgent as Agent
    from orchestrator.simulation.sim_transport import SimChannel

__all__ = ["SimHost"]

_FREE = 500 << 30
_GONE = StopReason(StopKind.SUPERVISOR_GONE)
_NOTICED = 10.0  # until a connection to a host that was away is known to be dead: the next question over it
_FIRST_PORT = 30000
_PACKAGES = {"mindspore": "2.10.0", "tokenizers": "0.20.3"}


class SimHost:
    """One server of an inventory. `gangs` are the runs' gangs by run and attempt, common to all hosts."""

    def __init__(
        self, world: World, host: Host, index: int, gangs: dict[str, Gang], make_gang: Any, *, ascend: bool
    ) -> None:
        self.world = world
        self.name = host.name
        self.address = host.address
        self.workdir = host.workdir.replace("~", "/root")
        self.link = Link()
        self.offset = 0.0  # of its clock, from the true one
        self.boot = self._new_boot()
        self.is_full = False
        self.answers_late = 0.0
        self.lie: str | None = None
        self.told: float | None = None  # the real time when it was first told to stop
        self.store: dict[str, int] = {}
        self.agent_versions: set[str] = set()
        self.runs: dict[str, SimRun] = {}  # the attempt in force of each
        self.claims: dict[str, Claim] = {}
        self.stones: dict[str, Tombstone] = {}
        self.agents: list[Agent] = []
        self.taken_ports: set[int] = set()
        self.keeping = Keeping(self)
        self.packages: Mapping[str, str] = _PACKAGES
        self._gangs = gangs
        self._make_gang = make_gang
        self._booted = world.now
        self._pids = 1000
        self._port = _FIRST_PORT
        self._tools: dict[str, dict[str, Any]] = {}
        self._files: dict[str, str] = {}
        if ascend:
            count = max([device.id for device in host.devices], default=7) + 1
            addresses = {device.id: device.ip for device in host.devices if device.ip}
            self._tools, conf = _tools_of(
                index, tuple(_address(index, id_, addresses) for id_ in range(count))
            )
            self._files = {host.hccn_conf: conf}

    # What it is.

    @property
    def is_on(self) -> bool:
        return not self.link.is_off

    def time(self) -> float:
        """Seconds since the epoch by its own clock."""
        return EPOCH + self.world.now + self.offset

    @property
    def free_bytes(self) -> int:
        return 0 if self.is_full else _FREE

    def new_process(self) -> ProcessId:
        self._pids += 1
        return ProcessId(self._pids, int((self.world.now - self._booted) * 100), self.boot)

    def free_port(self) -> int:
        self._port += 1
        return self._port

    def _new_boot(self) -> str:
        return str(uuid.UUID(int=self.world.random.getrandbits(128), version=4))

    def busy_devices(self, devices: Sequence[int], run_id: str = "") -> list[int]:
        """Which of these a living supervisor holds, or are kept for another run than the one that asks."""
        held = self.keeping.devices(run_id) | {
            device
            for run in self.runs.values()
            if run.supervisor is not None and run.supervisor.is_alive
            for device in run.manifest.devices
        }
        return [device for device in devices if device in held]

    def tool_says(self, call: Sequence[str]) -> Mapping[str, Any]:
        if "-ping" in call:
            return {
                "text": "3 packets transmitted, 3 received, 0.00% packet loss\n",
                "exit_code": 0,
                "failure": "",
            }
        return self._tools.get(" ".join(call), {"text": "", "exit_code": None, "failure": "missing"})

    def file_says(self, path: str) -> Mapping[str, Any]:
        text = self._files.get(path)
        return {"text": text or "", "exit_code": None, "failure": "" if text is not None else "missing"}

    # Its runs.

    def run(self, run_id: str) -> SimRun:
        """Raises AgentError, kind `no_run`."""
        if run_id not in self.runs:
            raise AgentError(f"no run {run_id} on this host", kind="no_run")
        return self.runs[run_id]

    def gang_of(self, manifest: Manifest) -> Gang:
        """That of the run's attempt, which the first host that is prepared makes."""
        attempt = manifest.attempt
        name = f"{manifest.run_id}/{attempt.number}/{attempt.token}"
        if name not in self._gangs:
            self._gangs[name] = self._make_gang(manifest)
        return self._gangs[name]

    def discard(self, run: SimRun) -> None:
        """Undo one attempt, or remove the run."""
        if self.runs.get(run.manifest.run_id) is not run:
            return
        if run.before is not None:
            self.runs[run.manifest.run_id] = run.before
        else:
            del self.runs[run.manifest.run_id]

    def status(self, run: SimRun) -> HostStatus:
        """As agent/host_runs.py tells it of a run's files and the processes that live."""
        supervisor = run.supervisor
        if supervisor is not None and supervisor.is_alive:
            supervisor.refresh()
        if run.status is None:
            raise AgentError(f"no run {run.manifest.run_id} on this host", kind="no_run")
        found = run.status
        if supervisor is not None and supervisor.is_alive:
            return replace(found, phase="stopping") if found.is_over else found
        if found.is_over:
            kept = self.keeping.between(run.manifest.run_id) if self.runs.get(found.run_id) is run else ()
            return replace(found, held=kept) if kept != found.held else found
        return replace(
            found,
            ranks=tuple(_lost(rank) for rank in found.ranks),
            scheduler=_lost(found.scheduler) if found.scheduler else None,
            phase="over",
            stop=_GONE,
        )

    @property
    def supervisors(self) -> list[SimSupervisor]:
        """Those that live."""
        known = [run.supervisor for run in self.runs.values() if run.supervisor is not None]
        return [supervisor for supervisor in known if supervisor.is_alive]

    def process(self, rank: int) -> SimProcess | None:
        """The worker of this rank that runs here."""
        for run in self.runs.values():
            if run.supervisor is not None and run.supervisor.is_alive:
                found = run.supervisor.processes.get(rank)
                if found is not None and found.is_running:
                    return found
        return None

    # What happens to it.

    def power_off(self) -> None:
        """Everything that runs here is gone; what is on the disk stays."""
        if self.link.is_off:
            return
        self.link.is_off = True
        for agent in list(self.agents):
            agent.vanish()
        self.agents.clear()
        self.keeping.lose()
        for channel in list(self.link.channels):
            channel.fall_silent()
        for run in self.runs.values():
            if run.supervisor is not None and run.supervisor.is_alive:
                run.supervisor.vanish()

    def power_on(self) -> None:
        """It is there again, after another boot; who talks to it over an old connection learns that."""
        if not self.link.is_off:
            return
        self.link.is_off = False
        self.boot = self._new_boot()
        self._booted = self.world.now
        before = list(self.link.channels)

        def notice() -> None:
            for channel in before:
                channel.lose()

        self.world.after(_NOTICED, notice)

    def silence(self, reasons: int) -> None:
        """Nothing passes between it and the control node for so many reasons more (less: negative)."""
        was_silent = self.link.is_silent
        self.link.silences = max(0, self.link.silences + reasons)
        for channel in list(self.link.channels):
            if self.link.is_silent and not was_silent:
                channel.fall_silent()
            elif was_silent and not self.link.is_silent:
                channel.come_back()

    def begin(self, argv: tuple[str, ...], channel: SimChannel) -> SimProgram:
        """A program that a session starts: an agent is known by the options of its interpreter."""
        if argv == DIRECT:
            return DirectSimAgent(self, channel)
        return SimAgent(self, channel) if argv[1:3] == ("-I", "-S") else SimProgram(channel)

    def lied(self, header: dict[str, Any], verb: str) -> dict[str, Any] | bytes:
        """The answer, or what a host that lies says in its place."""
        if self.lie is None or (verb and verb not in ("status", "watch")):
            return header
        if self.lie == "no_answer":
            return b"<html>502 Bad Gateway</html>\n"
        if self.lie == "flood":
            return frame({**header, "result": {"filler": ["x" * 1000] * 9_000}})
        return {**header, **{key: self._twisted(header[key]) for key in ("result", "data") if key in header}}

    def _twisted(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if self.lie == "garbage":
            return {key: [str(each)] for key, each in value.items()}
        inner = value.get("status")
        status: dict[str, Any] = inner if isinstance(inner, dict) else value
        twisted = dict(status)
        if self.lie == "other_run":
            twisted["run_id"] = "another-run"
        elif "ranks" in twisted:
            twisted["ranks"] = [{**rank, "rank": rank["rank"] + 1} for rank in twisted["ranks"]]
        return {**value, "status": twisted} if status is not value else twisted


def _address(index: int, device: int, known: Mapping[int, str]) -> str:
    """That of the inventory, or one of its own."""
    return known.get(device) or f"10.{20 + index // 250}.{index % 250}.{1 + device}"


@functools.lru_cache(maxsize=4096)
def _tools_of(index: int, addresses: tuple[str, ...]) -> tuple[dict[str, dict[str, Any]], str]:
    """What the tools of such a host say, by their calls, and its hccn.conf; the same at each launch."""
    facts = host_facts(index % 250, "910B", len(addresses))
    facts = dataclasses.replace(
        facts,
        devices=tuple(
            dataclasses.replace(device, ip=ip, gateway=gateway, netdetect=gateway)
            for device, ip in zip(facts.devices, addresses, strict=True)
            for gateway in [".".join([*ip.split(".")[:2], "255", "254"])]
        ),
    )
    tools: dict[str, dict[str, Any]] = {
        call: {"text": said.text, "exit_code": said.exit_code, "failure": ""}
        for call, said in tool_answers(facts)
    }
    return tools, hccn_conf(facts)


def _lost(rank: RankStatus) -> RankStatus:
    if rank.state.is_terminal:
        return rank
    end = End(EndKind.LOST, reason=_GONE)
    return replace(rank, state=RankState.LOST, end=end, stalled=None, stalled_since=None)
