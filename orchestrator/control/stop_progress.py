"""The progress of a stop: which hosts are over, which cannot be reached, and whether waiting has an end.

Pure: the record goes in with the time, what is to be told comes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.agent.stop_grace import will_save
from orchestrator.control.run_record import HostView, RunRecord, Waits
from orchestrator.core.errors import OrchestrateError, PreflightError, TransportError

__all__ = ["MARGIN", "StopProgress", "saving_line", "saving_seconds"]

# Beyond the grace period: for SIGKILL to be noticed, and for a host that is busy.
MARGIN = 20.0


@dataclass
class StopProgress:
    """Waits for the hosts of a run to be over, by records as they come; times are seconds of one clock.

    It gives up `grace`, or what a host gives its workers to save, and a margin after the last sign of
    progress. A host that does not answer is waited for `patience` seconds, since it was seen not to. `saving`
    is the longest that a host gives for a checkpoint.
    """

    grace: float
    patience: float
    now: float
    over: set[str] = field(default_factory=set)
    saving: float | None = None
    _deaf_since: dict[str, float] = field(default_factory=dict)
    _ended: int = -1
    _deadline: float = 0.0

    def note(self, record: RunRecord, now: float) -> list[str]:
        """Take in a record; the hosts that are over since the last one."""
        self.now = now
        news = [name for name, view in record.hosts.items() if name not in self.over and _is_over(view)]
        self.over.update(news)
        ended = sum(_ended(view) for view in record.hosts.values()) + len(self.over)
        left = [view for name, view in record.hosts.items() if name not in self.over]
        saving = max(filter(None, map(saving_seconds, left)), default=None)
        is_longer = saving is not None and saving > (self.saving or 0.0)
        self.saving = saving if is_longer else self.saving
        if ended > self._ended or is_longer:
            self._ended, self._deadline = ended, now + self._waited
        deaf = {name for name, view in record.hosts.items() if view.error and name not in self.over}
        self._deaf_since = {name: self._deaf_since.get(name, now) for name in deaf}
        return news

    def is_done(self, record: RunRecord) -> bool:
        """Whether nothing is left to wait for, or it has been waited long enough."""
        return self.now >= self._deadline or all(
            name in self.over or self._is_given_up(name) for name in record.hosts
        )

    def errors(self, record: RunRecord) -> dict[str, OrchestrateError]:
        """Why hosts are not over."""
        left = {name: view for name, view in record.hosts.items() if name not in self.over}
        return {name: self._error(name, view) for name, view in left.items()}

    @property
    def _waited(self) -> float:
        return max(self.grace, self.saving or 0.0) + MARGIN

    def _is_given_up(self, name: str) -> bool:
        return name in self._deaf_since and self.now - self._deaf_since[name] >= self.patience

    def _error(self, name: str, view: HostView) -> OrchestrateError:
        if view.error:
            return TransportError(view.error.removeprefix(f"{name}: "), where=name)
        if not _ended(view):  # nobody knows whether it has heard of that
            return TransportError(
                f"told to stop, it has said nothing of that within {self._waited:g} s", where=name
            )
        grace = self._waited - MARGIN
        what = f"workers ran when it was last heard, and {grace:g} s of grace are over"
        return PreflightError(what, where=name)


def saving_seconds(view: HostView) -> float | None:
    """How long a host that is stopping gives its workers for a checkpoint; None where they make none."""
    status = view.status
    if status is None or status.phase != "stopping" or status.stop is None or view.error:
        return None
    running = [rank for rank in status.ranks if not rank.state.is_terminal]
    return status.grace if will_save(status.stop, running) else None


def saving_line(seconds: float) -> str:
    """What is told to who waits for that."""
    return f"saving a checkpoint: up to {seconds:.0f} s; --now ends it at once"


def _is_over(view: HostView) -> bool:
    return view.is_over or view.waits is Waits.NO_RUN


def _ended(view: HostView) -> int:
    """How many signs of an end the host has given."""
    if view.status is None:
        return 0
    signs = sum(rank.state.is_terminal for rank in view.status.ranks)
    return signs + (view.status.phase in _ENDING)


_ENDING = ("stopping", "over")
