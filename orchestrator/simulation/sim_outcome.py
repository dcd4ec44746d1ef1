"""What became of a simulated run: its attempts, what happened, and what the simulation took. Data."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.control.decisions import Choice, Decision, Ground
from orchestrator.control.run_record import Cause, RunRecord
from orchestrator.core.states import RunState
from orchestrator.simulation.sim_transport import Traffic

__all__ = ["AttemptSeen", "Cost", "Happening", "Outcome"]

_CRASHES = (Ground.CRASH, Ground.DEVICE_AGAIN, Ground.DEVICE_OUT)


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened, `time` true seconds after the launch: what, on which host, to which rank."""

    time: float
    what: str
    host: str = ""
    rank: int | None = None

    def __str__(self) -> str:
        where = f" {self.host}" if self.host else ""
        rank = "" if self.rank is None else f" rank {self.rank}"
        return f"{self.time:12.3f}{where}{rank} {self.what}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What the simulation took: seconds of this machine and of its CPU, and the most memory, in bytes.

    `controller` is the CPU of what runs on a control node, `hosts` that of the simulated hosts and the
    network, by the real time that each takes; `jumped` are the true seconds that were passed over. Of the
    controller's, `launch` was until every rank ran, and `watch` is what it took since for each second that
    was not passed over. `told` are the real seconds, of both, from the first fault until every host that was
    told to stop had been. None: that never came.
    """

    seconds: float
    controller: float
    hosts: float
    memory: int
    events: int
    jumped: float
    launch: float | None = None
    watch: float | None = None
    told: float | None = None


@dataclass(frozen=True, slots=True)
class AttemptSeen:
    """One attempt of a run. Times are true seconds since the launch, None where it did not get there.

    It was begun at `begun`, behind step `resumed`; its last host was `told` to start, it had made its `first`
    step, its first rank `broke` and it had `ended` everywhere, as far as the monitor knows. It came to step
    `steps`, of which `saved` is the last in a whole save, after so many `saves`. `decision` is what was then
    decided.
    """

    number: int
    begun: float
    resumed: int = 0
    told: float | None = None
    first: float | None = None
    broke: float | None = None
    ended: float | None = None
    steps: int = 0
    saved: int = 0
    saves: int = 0
    decision: Decision | None = None

    @property
    def crashed(self) -> bool:
        """Whether it ended by a process that failed, and nothing had to be waited for."""
        return self.decision is not None and self.decision.ground in _CRASHES

    @property
    def restarts(self) -> bool:
        """Whether the run went on by itself, or was to."""
        return self.decision is not None and (
            self.decision.choice.goes_on or self.decision.choice is Choice.WAIT
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. Times are true seconds since the launch; `seconds` were simulated.

    `running` is when every rank ran, `ended` when the run was over; None where that never came. `orphans` are
    workers that still run on hosts, by rank, though the run is over or was never begun. `saved` is the last
    of the `steps` that is in a complete save. `attempts` are all of the run in their order.
    """

    record: RunRecord
    seconds: float
    running: float | None
    ended: float | None
    steps: int
    saved: int
    happenings: tuple[Happening, ...]
    orphans: tuple[int, ...]
    traffic: Traffic
    cost: Cost
    attempts: tuple[AttemptSeen, ...] = ()

    @property
    def state(self) -> RunState:
        return self.record.state

    @property
    def exit_code(self) -> int | None:
        return self.record.exit_code

    @property
    def cause(self) -> Cause | None:
        return self.record.cause

    def trace(self) -> str:
        """Everything that happened, a line each, without what differs from launch to launch."""
        return "".join(f"{each}\n" for each in self.happenings).replace(self.record.run_id, "RUN")
