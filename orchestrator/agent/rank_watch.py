"""The watch over one rank, as its supervisor alone can have it: what its metrics say, and whether it goes on.

Pure: lines of metrics, states of processes and times go in; `RankStatus` comes out. `now` is in seconds of
any steady clock, `time` in those of the host's.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Tuple

from orchestrator.agent.metrics_lines import Said, said_in
from orchestrator.agent.step_pace import StepPace
from orchestrator.agent.stop_grace import SAVE
from orchestrator.core.record_class import replace
from orchestrator.core.records import Phase, RankStatus, StallKind

__all__ = ["RankWatch"]

# The states of a process, see proc(5), in which it does not go on.
_HELD_UP = {"T": StallKind.STOPPED, "t": StallKind.STOPPED, "D": StallKind.BLOCKED}
# For how long one is found in such a state before it counts, at a look a second. Who is stopped is so at two
# looks. Who reads or writes waits for its disk often, and each time for a moment: it is blocked that has not
# run at all in between; where that cannot be told, only after long.
_STOPPED, _BLOCKED, _BLOCKED_PERHAPS = 0.9, 2.9, 10.0
# So long a process may take to give its memory back, once it was killed.
_DIES = 10.0
_MOST_WORDS = 16
_EARLY = 2.0  # seconds by which a line's time may be off


class RankWatch:
    """What is known of one rank beside its status."""

    def __init__(self) -> None:
        self.pace = StepPace()
        # The state in which its process was found, since when, and how often it had run by then.
        self._held_up: Optional[Tuple[StallKind, float, Optional[int]]] = None
        self._killed: Optional[float] = None
        # The step at which its phase began.
        self._phase_step: Optional[int] = None

    def after(self, status: RankStatus, line: Mapping[str, Any], now: float, time: float) -> RankStatus:
        """The status after one more line of its metrics."""
        said = said_in(line)
        if said.compute is not None:
            self.pace.note_computed(said.compute)
        if said.is_progress:
            status = _with_progress(status, line)
        if said.can:
            can = (*status.can, *(word for word in said.can if word not in status.can))
            status = replace(status, can=can[:_MOST_WORDS])
        if said.saved is not None and (status.saved is None or said.saved > status.saved):
            status = replace(status, saved=said.saved, save_stall=said.stall, save_write=said.write)
            self.pace.note_whole(said.write)
        phase = said.phase if said.phase is not None else self._phase_of_step(status, said)
        if phase is None or (phase is status.phase and self._goes_on(phase, said)):
            return status
        return self._begun(status, phase, said, now, time)

    def note_process(self, letter: str, now: float, switches: Optional[int] = None) -> None:
        """The state of its process, as proc(5) has it, and how often that has run; told once a second."""
        kind = _HELD_UP.get(letter)
        held = self._held_up
        if kind is None:
            self._held_up = None
        elif held is None or held[0] is not kind or held[2] != switches:
            self._held_up = (kind, now, switches)

    def outlives_kill(self, is_killed: bool, now: float) -> bool:
        """Whether it was killed long ago: to be asked once a second while it runs."""
        if is_killed and self._killed is None:
            self._killed = now
        return self._killed is not None and now - self._killed > _DIES

    def forgive(self, now: float) -> None:
        """What was not seen to happen until now has no meaning."""
        self._held_up = None
        self._killed = None if self._killed is None else now
        self.pace.forgive(now)

    def stall(self, status: RankStatus, now: float) -> Tuple[Optional[StallKind], Optional[float]]:
        """Why it does not go on, and since when; to be asked once a second while it runs."""
        if status.progress and self.pace.note(status.progress, now):
            self._held_up = None  # it was, each time one looked, and went on in between
        if self._killed is not None and now - self._killed > _DIES:
            return StallKind.BLOCKED, self._killed  # whatever state its first thread is in
        if self._held_up is not None:
            kind, since, switches = self._held_up
            known = _BLOCKED_PERHAPS if switches is None else _BLOCKED
            if now - since > (_STOPPED if kind is StallKind.STOPPED else known):
                return kind, since
        late = self.pace.stalled_since(now)
        return (None, None) if late is None else (StallKind.NO_STEP, late)

    def _begun(self, status: RankStatus, phase: Phase, said: Said, now: float, time: float) -> RankStatus:
        earliest = (status.started or 0.0) - _EARLY
        is_time = said.time is not None and earliest <= said.time <= time + _EARLY
        since = said.time if is_time and said.time is not None else time
        if status.phase is Phase.SAVE and status.saved is None and SAVE in status.can:
            self.pace.note_behind()
        self.pace.note_phase(phase, since, now)
        saving = status.saving
        if status.phase is Phase.SAVE and status.phase_since is not None:
            saving += max(0.0, since - status.phase_since)
        made = status.progress.get("step")
        self._phase_step = said.step if said.step is not None else made if type(made) is int else None
        return replace(status, phase=phase, phase_since=since, saving=saving)

    def _goes_on(self, phase: Phase, said: Said) -> bool:
        """Whether a phase that is told again is the same: another save is told with another step."""
        return phase is Phase.STEP or said.step in (None, self._phase_step)

    def _phase_of_step(self, status: RankStatus, said: Said) -> Optional[Phase]:
        """That of steps, where one is made that cannot have been made before the phase began.

        The line of a step may be written late; of two the last cannot.
        """
        if status.phase in (None, Phase.STEP) or said.step is None or not said.is_progress:
            return None
        return Phase.STEP if said.step > (self._phase_step or 0) + 1 else None


def _with_progress(status: RankStatus, line: Mapping[str, Any]) -> RankStatus:
    """The newest line with a step is its progress; of a program that counts none, the newest line.

    The first is kept beside it: pace and time left are told from the two, and the first step, which compiles,
    does not count.
    """
    before = status.progress
    if "step" in before and "step" not in line:
        return status
    first = before.get("first") or {name: line[name] for name in ("step", "time") if name in line}
    return replace(status, progress={**line, "first": first})
