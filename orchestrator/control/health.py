"""The health of a run: whether its ranks go on, told from what hosts say of their steps and phases.

A run hangs when no rank has made a new step for longer than its steps and its saves let one expect
(`step_limits`): the `floor`, five median intervals between new steps, two of its last save. What nobody has
seen yet, a first step, save, evaluation or compilation, has the limit `first`. One rank that makes none while
others go on is named and no hang, and who is stopped or blocked is named at once. Nothing is ended for any
of this, and what is said is taken back.

Not seeing is not knowing: of a host that does not answer nothing is said, and after any time in which it
could not be seen every timer starts anew. Before a hang is told every host has to say, then, that nothing is
new. Where no rank reports steps nothing is said of steps.

Pure: `now` is a steady clock of the monitor's time awake, `time` the wall clock in whose time findings are.
What hosts say costs by what is new in it, judging by a timer.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from orchestrator.config.run_terms import Health
from orchestrator.control.health_findings import Finding, FindingKind
from orchestrator.control.seen_ranks import (
    STALLS,
    Does,
    Doing,
    SeenRank,
    finding_of,
    last_line,
    most,
    odd_ones,
    span_of,
    stalls_of,
)
from orchestrator.control.step_limits import LEARNT, StepLimits
from orchestrator.core.records import Phase, RankStatus
from orchestrator.core.states import RankState

__all__ = ["RunHealth"]

# So often it is looked whether single ranks are silent, at most.
_LOOK = 5.0
# What is due is looked at so much later: a float more or less must not make it due again and again.
_LATER = 0.01
# A supervisor sees a phase once a second, and we hear of it a little later.
_SEEN_LATE = 5.0
_LARGEST = 10**15


class RunHealth:
    """Of one run. `heard`, `answered`, `stale` and `lost_sight` take what hosts say, `judge` says what is
    not well.

    `trains`: its task makes steps, also before anybody has seen one. `due` is when there may be something to
    judge though nobody has said anything.
    """

    def __init__(self, rules: Health, limits: StepLimits, *, trains: bool, now: float) -> None:
        self._rules, self._limits, self._trains = rules, limits, trains
        self._ranks: dict[int, SeenRank] = {}
        self._of_host: dict[str, dict[int, None]] = {}
        self._does: Counter[Does] = Counter()
        # Those that report steps and have not made their last one, who moved last at the end.
        self._order: OrderedDict[int, None] = OrderedDict()
        self._held_up: dict[str, dict[int, tuple[RankStatus, float]]] = {}
        self._offsets: dict[str, float | None] = {}
        self._stale: dict[str, float] = {}
        self._blind: dict[str, None] = {}
        self._steps: dict[int, int] = {}  # of all ranks that were ever seen
        self._high, self._has_phases = -1, False
        self._moved = self._anew = self._together = now
        self._stepped: float | None = None  # when the newest step was seen, if only steps came since
        self._looked = -math.inf
        self._asked: float | None = None
        self._ask_again = 0.0
        self._unsure: dict[str, None] = {}  # hosts that have not answered since then
        self._to_ask: list[str] = []
        self._hang: Finding | None = None
        self._silent: dict[int, float] = {}
        self._ended: list[Finding] = []

    # What hosts say.

    def heard(
        self, host: str, ranks: Iterable[RankStatus], now: float, *, offset: float | None = None
    ) -> None:
        """The ranks of a host as they are now; its clock is ahead of ours by `offset`, None: nobody knows."""
        self._offsets[host] = offset
        if host in self._stale:
            return  # old news
        if host in self._blind:
            del self._blind[host]
            self.start_anew(now)
        for rank in ranks:
            seen = self._ranks.get(rank.rank)
            if seen is None or seen.status is not rank:
                self._take(host, rank, seen, now)

    def heard_steps(self, host: str, ranks: Iterable[RankStatus], now: float, offset: float | None) -> None:
        """As `heard`, of a host that answers, and of which since the last time only steps are new."""
        self._offsets[host] = offset
        for rank in ranks:
            seen = self._ranks.get(rank.rank)
            if seen is None:
                self._take(host, rank, None, now)
            elif seen.status is not rank:
                self._take_steps(rank, seen, now)

    def answered(self, host: str) -> None:
        """It was asked whether anything is new, and has said all that is."""
        self._unsure.pop(host, None)

    def stale(self, host: str, since: float | None, now: float) -> None:
        """Since when its supervisor has written nothing though the host answers; None: it does write."""
        if since is not None and host not in self._stale:
            self._forget(host)
            self.start_anew(now)
            self._stale[host] = since
        elif since is None and self._stale.pop(host, None) is not None:
            self.start_anew(now)

    def lost_sight(self, host: str, now: float) -> None:
        """It does not answer: nothing is known of its ranks, nor of the time until it does again."""
        if host not in self._blind:
            self._forget(host)
            self._stale.pop(host, None)
            self._blind[host] = None
            self.start_anew(now)

    def over(self, host: str) -> None:
        """Nothing of the run is left there, or it is lost for good."""
        self._forget(host)
        self._stale.pop(host, None)
        self._blind.pop(host, None)

    def start_anew(self, now: float) -> None:
        """Nothing could be seen for a while: what did not happen meanwhile has no meaning."""
        self._anew, self._stepped, self._asked = now, None, None

    # What is not well.

    @property
    def hosts(self) -> list[str]:
        """Those with ranks that can be seen."""
        return [host for host, ranks in self._of_host.items() if ranks]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Those that run; none while a host of theirs cannot be seen."""
        return () if self._blind or self._stale else tuple(self._ranks)

    @property
    def hang(self) -> Finding | None:
        """That no rank makes steps, while none does."""
        return self._hang

    def is_held_up(self, now: float) -> bool:
        """Whether those that can be seen save, evaluate or compile, for no longer than may be."""
        phases = [each for each, count in self._does.items() if count and each in (*LEARNT, Doing.FIRST)]
        return any(now - self._last_move < self._limit_of(phase) for phase in phases)

    def due(self) -> float:
        """When there may be something to judge (of the clock of `now`)."""
        times = []
        if self._hang is None and self._asked is not None:
            times.append(self._ask_again if self._unsure else -math.inf)  # all have answered
        elif self._hang is None and self._expects_steps:
            times.append(self._last_move + self._limit())
        if self._hang is None and self._order:
            first = self._ranks[next(iter(self._order))]
            silent = self._alone_since(first) + self._limits.of(Phase.STEP)
            times.append(max(silent, self._looked + _LOOK))
        return min(times, default=math.inf) + _LATER

    def judge(self, now: float, time: float) -> tuple[Finding, ...]:
        """All that is not well now."""
        self._mind_hang(now, time)
        self._mind_silent(now, time)
        return (*([self._hang] if self._hang else ()), *stalls_of(self._held_up), *self._silences())

    def to_ask(self) -> list[str]:
        """Hosts to be asked for their status: a hang is told only when they have answered."""
        asked, self._to_ask = self._to_ask, []
        return asked

    def suspect(self, ranks: tuple[int, ...], detail: str) -> None:
        """What the stacks of a hang tell: whose are unlike the others', and where they are."""
        if self._hang is not None:
            self._hang = replace(self._placed(self._hang, ranks or self._hang.ranks), detail=detail)

    def taken_back(self) -> list[Finding]:
        """Hangs that have ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    # What is known.

    @property
    def _last_move(self) -> float:
        return max(self._moved, self._anew)

    def _take(self, host: str, rank: RankStatus, seen: SeenRank | None, now: float) -> None:
        self._mind_stall(host, rank)
        if rank.state is not RankState.RUNNING:
            self._drop(rank.rank)
            return
        if seen is None:
            seen = self._ranks[rank.rank] = SeenRank(host, rank, now)
            self._of_host.setdefault(host, {})[rank.rank] = None
            self._does[seen.does] += 1
            self._moved = now  # one more that can be seen
        elif rank.phase is not seen.status.phase or rank.phase_since != seen.status.phase_since:
            self._note_phase(rank, seen, now)
        self._limits.note(rank)
        self._take_steps(rank, seen, now)
        self._has_phases = self._has_phases or rank.phase is not None

    def _take_steps(self, rank: RankStatus, seen: SeenRank, now: float) -> None:
        self._note_step(rank, seen, now)
        before = seen.does
        seen.note(rank, self._limits.known(rank.rank) if rank.phase in LEARNT else ())
        if seen.does is not before:  # to count costs more than to look
            self._does[before] -= 1
            self._does[seen.does] += 1
        if seen.step is None or seen.does is Doing.LAST:
            self._order.pop(rank.rank, None)
        elif seen.moved == now:
            self._order[rank.rank] = None
            self._order.move_to_end(rank.rank)

    def _drop(self, rank: int) -> None:
        seen = self._ranks.pop(rank, None)
        self._silent.pop(rank, None)
        if seen is not None:
            self._does[seen.does] -= 1
            self._order.pop(rank, None)
            self._of_host[seen.host].pop(rank, None)

    def _forget(self, host: str) -> None:
        for rank in list(self._of_host.get(host, ())):
            self._drop(rank)
        self._held_up.pop(host, None)
        self._unsure.pop(host, None)

    def _mind_stall(self, host: str, rank: RankStatus) -> None:
        """Of the states that a host tells of; that no step came we know better, who see all hosts."""
        if rank.stalled in STALLS and rank.state is RankState.RUNNING:
            since = (rank.stalled_since or 0.0) - (self._offsets.get(host) or 0.0)
            known = self._held_up.setdefault(host, {})
            if rank.rank not in known or known[rank.rank][0].stalled is not rank.stalled:
                known[rank.rank] = (rank, since)
        elif host in self._held_up:
            self._held_up[host].pop(rank.rank, None)

    def _note_phase(self, rank: RankStatus, seen: SeenRank, now: float) -> None:
        before = seen.status
        # Between two of the same, one behind the other, there may have been steps.
        is_known = rank.phase is not before.phase and seen.tells_of_next(rank)
        if is_known and before.phase is not None and before.phase in LEARNT:
            self._limits.learn_phase(before.phase, rank.rank, self._took(rank, before, now - seen.phase_at))
        seen.phase_at, seen.phase_step = now, seen.step or 0
        self._move(seen, now)
        self._stepped = None  # until the next step there is more than steps

    def _took(self, rank: RankStatus, before: RankStatus, seen: float) -> float:
        """Seconds of a phase: by the host's clock, unless that was set meanwhile."""
        said = (rank.phase_since or 0.0) - (before.phase_since or 0.0)
        was_set = not before.phase_since or said < seen - _SEEN_LATE - self._limits.every
        # Who has come in its middle, or was not told at once, has seen less of it than its host.
        return seen if was_set or said > seen + self._rules.first else said

    def _note_step(self, rank: RankStatus, seen: SeenRank, now: float) -> None:
        step = rank.progress.get("step")
        if type(step) is not int or not 0 <= step < _LARGEST:
            return
        before, seen.step = self._steps.get(rank.rank), step
        if before == step:
            return
        self._steps[rank.rank] = step  # a lower one is of a program that counts anew
        if step > self._high:
            if self._stepped is not None:
                self._limits.learn_step(now - self._stepped, step - self._high)
            elif self._limits.interval is None and (span := span_of(rank)) is not None:
                self._limits.guess_step(span)
            self._stepped = now
        if self._moved != now and not (self._has_phases and self._limits.tells_all) and self._high >= 0:
            idle = now - self._last_move
            if idle > self._rules.floor:
                self._limits.learn_gap(idle)
        self._high = max(self._high, step)
        seen.note_stepped(now, self._anew)
        self._move(seen, now)

    def _move(self, seen: SeenRank, now: float) -> None:
        if now - self._last_move > 2 * max(self._limits.every, self._limits.interval or 0.0):
            # All stood still: who tells of it a little later is no later than the others.
            self._together = now
        seen.moved = self._moved = now
        self._asked = None
        if self._hang is not None:
            self._ended.append(self._hang)
            self._hang = None

    @property
    def _expects_steps(self) -> bool:
        return bool(self._ranks) and (self._trains or self._high >= 0)

    def _limit(self) -> float:
        """For how long nobody has to make a step: who has most time counts, for the others wait for it."""
        does = {one for one, count in self._does.items() if count}
        if len(does) > 1:
            does.discard(Doing.LAST)
        limit = max(map(self._limit_of, does), default=math.inf)
        # Those that cannot be seen may go on, or do what takes longer.
        return max(limit, self._rules.first) if self._blind or self._stale else limit

    def _limit_of(self, does: Does) -> float:
        return self._rules.first if isinstance(does, Doing) else self._limits.of(does)

    # Findings.

    def _mind_hang(self, now: float, time: float) -> None:
        moved = self._last_move
        if self._hang is not None:
            return
        if not self._expects_steps or now - moved < self._limit():
            self._asked = None
            return
        if self._asked is None:
            self._asked, self._ask_again = now, now
            self._unsure = dict.fromkeys(self.hosts)
        if self._unsure and now >= self._ask_again:
            self._ask_again = now + _LOOK
            self._to_ask = list(self._unsure)
        if self._unsure:
            return
        ranks = odd_ones(self._ranks, (rank for held_up in self._held_up.values() for rank in held_up))
        hang = Finding(
            FindingKind.HANG,
            min(time - (now - moved), last_line(self._ranks.values(), self._offsets)),
            phase=most(self._ranks[rank].status.phase for rank in ranks or self._ranks),
            seconds=now - moved,
            blind=(*self._blind, *self._stale),
            phases=self._has_phases,
        )
        self._hang = self._placed(hang, ranks)

    def _placed(self, finding: Finding, ranks: tuple[int, ...]) -> Finding:
        """The finding that names these ranks."""
        seen = [self._ranks[rank] for rank in ranks if rank in self._ranks]
        hosts = {each.host for each in seen}
        host = hosts.pop() if len(hosts) == 1 else ""
        device = seen[0].status.device_id if len(seen) == 1 else None
        return replace(finding, ranks=ranks, host=host, device=device)

    def _mind_silent(self, now: float, time: float) -> None:
        """Ranks that have made no step for too long while others have, after their last one."""
        if self._hang is not None:
            self._silent = {}
        elif now - self._looked < _LOOK:
            self._silent = {rank: since for rank, since in self._silent.items() if self._is_behind(rank)}
        else:
            self._looked = now
            self._silent = {rank: self._silent.get(rank, since) for rank, since in self._late(now, time)}

    def _late(self, now: float, time: float) -> Iterable[tuple[int, float]]:
        least = self._limits.of(Phase.STEP)
        for rank in self._order:  # who moved longest ago comes first
            seen = self._ranks[rank]
            idle = now - self._alone_since(seen)
            if idle < least:
                break
            limit = max(self._limit_of(seen.does), seen.pause(self._rules.first))
            if idle >= limit and self._is_behind(rank):
                yield rank, time - idle

    def _is_behind(self, rank: int) -> bool:
        """Whether others have gone on since: by more than lies between two hosts that tell of the same."""
        seen = self._ranks[rank]
        apart = max(self._rules.floor / 2, 2 * self._limits.every)
        is_behind = seen.step is not None and seen.step < self._high
        return is_behind and self._last_move - self._alone_since(seen) > apart

    def _alone_since(self, seen: SeenRank) -> float:
        return max(seen.moved, self._anew, self._together)

    def _silences(self) -> list[Finding]:
        by_host: dict[str, list[tuple[RankStatus, float]]] = {}
        for rank, since in self._silent.items():
            seen = self._ranks[rank]
            if rank not in self._held_up.get(seen.host, ()):
                by_host.setdefault(seen.host, []).append((seen.status, since))
        silent = FindingKind.SILENT
        return [
            *(Finding(silent, since, host=host) for host, since in self._stale.items()),
            *(finding_of(silent, host, ranks) for host, ranks in by_host.items()),
        ]
