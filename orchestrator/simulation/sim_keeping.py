"""What a simulated host keeps for a run beside its workers: devices between attempts, and itself as a spare.

As agent/device_hold.py and agent/spare_holder.py have it: both end when nobody has renewed them for so long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.agent.request_loop import Answer
from orchestrator.core.errors import AgentError
from orchestrator.simulation.sim_attempts import is_meant, take_claim

if TYPE_CHECKING:
    from orchestrator.simulation.sim_agent import SimAgent
    from orchestrator.simulation.sim_host import SimHost

__all__ = ["KEEPING_VERBS", "Keeping"]

Args = Mapping[str, Any]


@dataclass(slots=True)
class _Kept:
    devices: tuple[int, ...]
    seconds: float
    until: float


class Keeping:
    """The devices of one host that are kept, by run; times are of the world's clock."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._between: dict[str, _Kept] = {}
        self._spare: dict[str, _Kept] = {}

    def keep(self, run_id: str, devices: Sequence[int], seconds: float) -> None:
        """Between two attempts."""
        self._between[run_id] = self._new(devices, seconds)

    def hold_spare(self, run_id: str, devices: Sequence[int], seconds: float) -> None:
        """As a spare."""
        self._spare[run_id] = self._new(devices, seconds)

    def _new(self, devices: Sequence[int], seconds: float) -> _Kept:
        return _Kept(tuple(devices), seconds, self._host.world.now + seconds)

    def between(self, run_id: str) -> tuple[int, ...]:
        """The devices that are kept for the next attempt of this run."""
        found = self._living(self._between).get(run_id)
        return () if found is None else found.devices

    def spare(self, run_id: str) -> tuple[int, ...] | None:
        """Those that are held as a spare of this run; None where it is none."""
        found = self._living(self._spare).get(run_id)
        return None if found is None else found.devices

    def devices(self, but: str = "") -> set[int]:
        """Those that others cannot have; `but`: the run that asks."""
        kept = [*self._living(self._between).items(), *self._living(self._spare).items()]
        return {device for run_id, each in kept if run_id != but for device in each.devices}

    def renew(self, run_id: str) -> None:
        """A monitor of the run was heard."""
        for kept in (self._living(self._between), self._living(self._spare)):
            if run_id in kept:
                kept[run_id].until = self._host.world.now + kept[run_id].seconds

    def release(self, run_id: str) -> None:
        """Let go of what is kept between attempts."""
        self._between.pop(run_id, None)

    def release_spare(self, run_id: str) -> None:
        self._spare.pop(run_id, None)

    def take(self, run_id: str) -> None:
        """An attempt of the run has the devices now."""
        self.release(run_id)
        self.release_spare(run_id)

    def lose(self) -> None:
        """The host has lost its power."""
        self._between.clear()
        self._spare.clear()

    def _living(self, kept: dict[str, _Kept]) -> dict[str, _Kept]:
        for run_id in [name for name, each in kept.items() if self._host.world.now >= each.until]:
            del kept[run_id]
        return kept


def _renew(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    """The supervisor of an attempt, or who keeps its devices, hears of a monitor."""
    host = agent.host
    run = host.run(args["run_id"])
    if not is_meant(run, args):
        raise AgentError("another attempt is in force here", kind="no_run")
    take_claim(host, args["run_id"], args)
    host.keeping.renew(args["run_id"])
    if run.supervisor is not None and run.supervisor.is_alive:
        run.supervisor.heard()
        yield Answer(run.supervisor.answer())
        return
    yield Answer({"phase": "over", "failed_first": "", "reason": ""})


def _release(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    take_claim(agent.host, args["run_id"], args)
    agent.host.keeping.release(args["run_id"])
    run = agent.host.runs.get(args["run_id"])
    if run is not None and run.supervisor is not None and run.supervisor.is_alive:
        run.supervisor.state.release()
    yield Answer()


def _spare_hold(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    host, run_id = agent.host, args["run_id"]
    take_claim(host, run_id, args)
    if host.keeping.spare(run_id) is None:
        if busy := host.busy_devices(args["devices"], run_id):
            raise AgentError(f"device {busy[0]} is in use by another run", kind="device_busy")
        host.keeping.hold_spare(run_id, args["devices"], args["lease"])
    host.keeping.renew(run_id)
    yield _spare(agent, args)


def _spare_status(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    yield _spare(agent, args)


def _spare_renew(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    if isinstance(args.get("over"), str):
        agent.host.keeping.release_spare(args["run_id"])
    agent.host.keeping.renew(args["run_id"])
    yield _spare(agent, args)


def _spare_release(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    agent.host.keeping.release_spare(args["run_id"])
    yield Answer()


def _spare(agent: SimAgent, args: Args) -> Answer:
    devices = agent.host.keeping.spare(args["run_id"])
    if devices is None:
        raise AgentError(f"this host is no spare of run {args['run_id']}", kind="no_spare")
    return Answer({"run_id": args["run_id"], "devices": list(devices), "warmth": "ready"})


KEEPING_VERBS = {
    "release": _release,
    "renew": _renew,
    "spare_hold": _spare_hold,
    "spare_release": _spare_release,
    "spare_renew": _spare_renew,
    "spare_status": _spare_status,
}
