"""The views of a run's hosts: what each has said, kept as they say it, and what their silence means.

A lie or a bug of one host costs that host: its ranks become unreachable, with the reason.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping

from orchestrator.config.run_terms import Health, Timeouts
from orchestrator.config.tasks import TRAINING
from orchestrator.control.health_watch import HealthWatch
from orchestrator.control.host_loss import Silence, StepPace, StuckHosts, Surroundings, verdict
from orchestrator.control.run_record import HostView, Waits
from orchestrator.control.run_tally import RunTally
from orchestrator.control.status_fold import folded, stale_since
from orchestrator.control.step_times import StepTimes
from orchestrator.core.errors import AgentError, OrchestrateError, TransportError
from orchestrator.core.push import Digest, Mark, Snapshot
from orchestrator.core.records import HostStatus
from orchestrator.hosts.clock_offset import ClockOffset
from orchestrator.hosts.host_feed import HostFeed
from orchestrator.hosts.host_link import Failed, Present, Said, Stacks
from orchestrator.hosts.scheduling import Scheduling

__all__ = ["HostViews"]

log = logging.getLogger(__name__)


class HostViews:
    """The hosts `views` of a run, of which those of `asked` are heard through `feed`.

    `is_changed` is set when a view is another one, `is_calm` while only steps were made, and `is_relevant`
    where it makes a difference to the tally; who judges the run says so by `note_judged`. `unheard` are the
    hosts of which nothing has been heard yet. `times` is told of every host's ranks.
    """

    def __init__(
        self,
        views: Mapping[str, HostView],
        asked: Iterable[str],
        feed: HostFeed,
        scheduling: Scheduling,
        health: HealthWatch | None = None,
        times: StepTimes | None = None,
    ) -> None:
        self.views = dict(views)
        self.times = times or StepTimes(0)
        self.tally = RunTally(self.views)
        self.is_changed = self.is_relevant = False
        self.is_calm = True
        self.unheard = {name: None for name in asked if not self.views[name].is_over}
        self._feed, self._scheduling = feed, scheduling
        self._health = health or HealthWatch(Health(enabled=False), feed, scheduling)
        self.since = scheduling.monotonic()  # the start of the watch, or when the monitor last woke
        self._began = scheduling.time()
        self._pace = StepPace(self.since)
        self._marks: dict[str, Mark | None] = {}
        self._contacts: dict[str, float] = {}
        self._heard_at: dict[str, float] = {}
        self._silences: dict[str, Silence] = {}
        self._failed: list[str] = []
        self._stuck = StuckHosts()
        self._is_blind = False  # nobody answers
        for name in asked:
            if self.views[name].is_over:
                feed.done(name)

    @property
    def any_silent(self) -> bool:
        """Whether some host does not answer, or something of the run does not end there."""
        return bool(self._silences) or bool(self._stuck)

    def note_judged(self) -> None:
        """What has changed by now is judged."""
        self.is_changed = self.is_relevant = False
        self.is_calm = True

    def measure_failed(self) -> None:
        """Have the clocks measured of hosts that have failed anew: their ends are compared."""
        failed, self._failed = self._failed, []
        for name in failed:
            self._feed.measure(name)

    def start_anew(self) -> None:
        """The monitor slept: what did not happen meanwhile has no meaning."""
        self.since = self._scheduling.monotonic()
        self._pace.start_anew(self.since)
        self._silences.clear()
        self._stuck.start_anew()
        self._health.start_anew()
        self._feed.start_anew()

    def take(self) -> None:
        """Take all that hosts have said by now."""
        for said in self._feed.take():
            try:
                if isinstance(said.what, Stacks):
                    self._health.stacks(said.host, said.what, self.views[said.host])
                    self.is_changed, self.is_calm = True, False
                else:
                    self.fold(said)
            except Exception as error:  # a bug that this host's words have found
                log.exception("%s: its words cannot be taken", said.host)
                self._fail(said.host, Failed(error, self.since))

    def fold(self, said: Said) -> None:
        """Take what a host has said, or that it could not be reached."""
        name, what = said.host, said.what
        assert not isinstance(what, Stacks)  # they say nothing of what it is
        view = self.views[name]
        self.unheard.pop(name, None)
        if view.is_over and not view.error:
            if said.clock is not None and said.clock != view.clock:  # its ends are compared with others'
                clock = self._clock(name, view, said, self._scheduling.time())
                self._set(name, dataclasses.replace(view, clock=clock))
            return
        if isinstance(what, Failed):
            self._fail(name, what)
            return
        self._contacts[name] = now = self._scheduling.time()
        self._heard_at[name] = self._scheduling.monotonic()
        self._silences.pop(name, None)
        clock = self._clock(name, view, said, now)
        known = self._marks.get(name)
        if isinstance(what, Present):
            status, mark, is_missing = _answered(view.status, known, what)
        else:
            status, mark, is_missing = folded(view.status, known, what)
        if mark is not known and mark != known:
            self._marks[name] = mark
            self._feed.has(name, mark)
        if is_missing:
            self._feed.again(name)
        if type(what) is Digest and status is not None and _tells_all(view):
            self._show_steps(name, view, status, clock, what)
        else:
            self._show(name, view, status, clock, self._stale(name, what, clock))
        self._health.told(name, what, self.views[name])

    def _show(
        self,
        name: str,
        view: HostView,
        status: HostStatus | None,
        clock: ClockOffset | None,
        stale: float | None,
    ) -> None:
        """What is new of a host that has spoken; that it has is written down with what else is new."""
        if status is view.status and clock is view.clock and stale == view.stale_since and not view.error:
            return
        new = HostView(status, self._contacts[name], clock=clock, stale_since=stale)
        if status is not None and status is not view.status:
            self._pace.note(new.ranks(), self._scheduling.monotonic())
            self.times.note(status.ranks, new.ours, self._scheduling.time())
        had_failed = name in self.tally.notable
        self._set(name, new)
        if name in self.tally.notable and not had_failed:
            self._failed.append(name)
        if new.is_over:
            self._feed.done(name)

    def _show_steps(
        self, name: str, view: HostView, status: HostStatus, clock: ClockOffset | None, told: Digest
    ) -> None:
        """As `_show`, where all that is new are steps: what they make no difference to is not looked at."""
        if status is view.status and clock is view.clock:
            return
        now = self._contacts[name]
        self.views[name] = new = HostView(status, now, clock=clock)
        self.is_changed = True
        self._pace.note(status.ranks, self._heard_at[name])
        self.times.note_steps(status.ranks, new.ours, now)
        self._health.see_steps(name, status, clock)
        if not (self.tally.has_steps(name) and type(told.numbers.get("step")) is int):
            self._tally(name, new)

    def _stale(self, name: str, what: object, clock: ClockOffset | None) -> float | None:
        status = what.status if isinstance(what, (Snapshot, Present)) else None
        if status is None:
            is_unknown = isinstance(what, Present)
            return self.views[name].stale_since if is_unknown else None
        there = what.clock if isinstance(what, Snapshot) else status.clock
        written = None if there is None else stale_since(status, there)
        return written if written is None or clock is None else clock.ours(written)

    def _clock(self, name: str, view: HostView, said: Said, now: float) -> ClockOffset | None:
        """The offset of the host's clock, the more exact the more it says."""
        known = view.clock
        if said.clock is not None:
            return said.clock if known is None else known.or_newer(said.clock)
        there = getattr(said.what, "clock", None)
        if there is None or known is None:
            return known
        better = known.heard(there, now)
        if better is None:
            self._feed.measure(name)
        return better or known

    def _fail(self, name: str, failed: Failed) -> None:
        view, error, now = self.views[name], failed.error, self._scheduling.monotonic()
        ours = not isinstance(error, OrchestrateError)
        if not isinstance(error, OrchestrateError):
            error = TransportError(f"internal error: {error!r}", where=name)
        last = self._contacts.get(name) or view.last_contact
        view = dataclasses.replace(
            view, last_contact=last, blind_since=view.blind_since or last or self._began
        )
        if isinstance(error, AgentError) and error.kind == "no_run":
            self._silences.pop(name, None)
            gone = f"{name}: nothing of this run is there (a launch that broke off, or a removed directory)"
            view = dataclasses.replace(view, error=gone, lost=True, waits=Waits.NO_RUN, limit=None)
        else:
            before = self._silences.get(name)
            # An attempt that began before the monitor slept says nothing of the time since.
            since = before.since if before is not None else max(failed.begun, self.since)
            self._silences[name] = Silence.of(error, since, now, ours=ours)
            view = dataclasses.replace(view, error=str(error))
        self._set(name, view)

    def note_losses(self, task: str, timeouts: Timeouts, *, ending: bool, failed: bool = False) -> None:
        """Which hosts that do not answer, or do not end, are lost; who was stays so until it answers."""
        self._note_stuck()
        if not self._silences:
            return
        now, tally = self._scheduling.monotonic(), self.tally
        # While many are asked again after a break, nobody knows yet of most whether they answer.
        answering = sum(self._answers_lately(name, now - timeouts.unreachable) for name in self._heard_at)
        was_blind, self._is_blind = self._is_blind, not answering and tally.asked > 1
        if was_blind and not self._is_blind:
            # It was our own network: while nobody could be heard nothing was learnt of anybody.
            self._silences = {
                name: dataclasses.replace(silence, since=now, until=now)
                for name, silence in self._silences.items()
            }
        around = Surroundings(
            hosts=tally.asked,
            answering=answering,
            steps=self._pace.steps(
                now, timeouts.unreachable, anybody=tally.reporting > 0 and not self._health.is_held_up
            ),
            in_step=task in TRAINING,
            ending=ending,
            failed=failed,
        )
        for name, silence in self._silences.items():
            view = self.views[name]
            found = verdict(silence, around, timeouts)
            lost = view.lost or found.lost
            waits = Waits.NOTHING if lost else found.waits
            if (view.lost, view.silent, view.waits, view.limit) != (
                lost,
                silence.seconds,
                waits,
                found.limit,
            ):
                self._set(
                    name,
                    dataclasses.replace(
                        view, lost=lost, silent=silence.seconds, waits=waits, limit=found.limit
                    ),
                )

    def _note_stuck(self) -> None:
        if not self._stuck:
            return
        unfinished = [name for name, view in self.views.items() if not (view.is_over or view.lost)]
        for name in self._stuck.lost(unfinished, self._scheduling.monotonic()):
            self._set(name, dataclasses.replace(self.views[name], lost=True, waits=Waits.STUCK))

    def _answers_lately(self, name: str, since: float) -> bool:
        view = self.views[name]
        return self._heard_at[name] >= since and not (view.error or view.is_over or view.status is None)

    def _set(self, name: str, view: HostView) -> None:
        self.views[name] = view
        self._stuck.note(name, view.status)
        self.is_changed, self.is_calm = True, False
        self._health.see(name, view)
        self._tally(name, view)

    def _tally(self, name: str, view: HostView) -> None:
        if self.tally.update(name, view):
            self.is_relevant, self.is_calm = True, False


def _tells_all(view: HostView) -> bool:
    """Whether all that is known of a host is what it says."""
    return not view.error and not view.lost and view.stale_since is None


def _answered(
    status: HostStatus | None, mark: Mark | None, what: Present
) -> tuple[HostStatus | None, Mark | None, bool]:
    """As `folded`, what a host has answered."""
    if what.status is None:
        return status, mark, False
    if what.is_newest or status is None:
        return what.status, mark, False
    if what.status.is_over:
        return status, None, True  # its files say so: what it pushes must, too
    return status, mark, _differ(what.status, status)  # else what it pushes does not reach us


def _differ(there: HostStatus, known: HostStatus | None) -> bool:
    """Whether a status says something else than is known, but for what is only progress."""
    if known is None:
        return False
    states = [[(rank.rank, rank.state) for rank in status.everyone()] for status in (there, known)]
    return (there.phase, there.failed_first) != (known.phase, known.failed_first) or states[0] != states[1]
