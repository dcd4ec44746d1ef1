"""A simulated session's watch of one run: the events of the real `StatusFeed`, or what the files say instead.

As agent/run_watch.py has it: while the supervisor lives its feed says what is due; once it is gone the agent
tells what it left, and beats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.agent.status_feed import SHORTEST
from orchestrator.core.errors import AgentError
from orchestrator.core.push import OF_FILES, Beat, Digest, Gone, Mark, Pushed, Snapshot
from orchestrator.simulation.sim_values import Value
from orchestrator.simulation.timeline import Event

if TYPE_CHECKING:
    from orchestrator.simulation.sim_host import SimHost
    from orchestrator.simulation.sim_process import SimRun

__all__ = ["SimWatch"]

_TICK = 1.0
_LOOK = 0.02  # from the end of a supervisor until its files are looked at


class SimWatch:
    """What is new of a run, told to one session by `tell` with an event's name and data, until `close`."""

    def __init__(
        self,
        host: SimHost,
        run: SimRun,
        tell: Callable[[str, Any], None],
        *,
        every: float,
        beat: float,
    ) -> None:
        self._host = host
        self._run = run
        self._tell = tell
        self._every = max(every, SHORTEST)
        self._beat = max(beat, SHORTEST)
        self._sequence = OF_FILES
        self._has_told = False
        self._digested = host.world.now
        self._timer: Event | None = None

    def open(self, since: Mark | None) -> int:
        """Begin after `since`; the sequence that holds now. The first event comes later."""
        self._host.status(self._run)
        supervisor = self._run.supervisor
        self._timer = self._host.world.after(SHORTEST, self._turn)
        if supervisor is None or not supervisor.is_alive:
            return self._sequence
        supervisor.feed.subscribe(self, since, self._every, self._beat, self._host.world.now)
        supervisor.on_change.append(self._turn)
        return supervisor.feed.sequence

    def close(self) -> None:
        supervisor = self._run.supervisor
        if supervisor is not None:
            supervisor.feed.unsubscribe(self)
            if self._turn in supervisor.on_change:
                supervisor.on_change.remove(self._turn)
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        """Say what is due by now, and come back when the next thing may be."""
        if self._timer is not None:
            self._timer.cancel()
        supervisor = self._run.supervisor
        if supervisor is None or not supervisor.is_alive:
            # While the last of its words are told, the guardian is on its way out.
            self._timer = self._host.world.after(_LOOK, self._look)
            if supervisor is not None:
                self._say_due()
            return
        supervisor.refresh()
        self._say_due()
        now = self._host.world.now
        wait = supervisor.feed.wait(self, now)
        pause = self._beat if wait is None else wait
        if self._run.gang.is_moving:
            due = self._digested + self._every - now
            pause = min(pause, due if due > 0 else _TICK)  # no step since: the supervisor looks every second
        self._timer = self._host.world.after(max(SHORTEST, pause), self._turn)

    def _say_due(self) -> None:
        supervisor = self._run.supervisor
        assert supervisor is not None
        while event := supervisor.feed.due(self, self._host.world.now, self._host.time()):
            if isinstance(event, (Digest, Snapshot)):
                self._digested = self._host.world.now
            self._say(event)

    def _look(self) -> None:
        """What the files say, once; then beats."""
        self._timer = self._host.world.after(self._beat, self._look)
        clock = self._host.time()
        try:
            status = self._host.status(self._host.run(self._run.manifest.run_id))
        except AgentError as error:
            self._timer.cancel()
            self._say(Gone(clock, error.what, error.kind))
            return
        if self._has_told:
            self._say(Beat(self._sequence, clock))
            return
        self._has_told = True
        self._sequence += 1
        self._say(Snapshot(self._sequence, clock, status, None))

    def _say(self, event: Pushed | Gone) -> None:
        self._tell(event.EVENT, Value(event))
