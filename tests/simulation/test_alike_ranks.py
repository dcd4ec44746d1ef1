"""The ranks of a simulated host that say the same: what is made of it once is what is made of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.supervisor_state import Exit, SupervisorState
from orchestrator.core.records import Manifest, ProcessId, WorkerSpec
from orchestrator.simulation.alike_ranks import AlikeRanks

RANKS = (0, 1, 2)
WALL = 1_000_000.0
THINGS = st.one_of(
    st.tuples(st.just("steps"), st.integers(1, 40)),
    st.tuples(st.just("save"), st.integers(1, 40)),
    st.tuples(st.just("computed"), st.integers(1, 9)),
    st.tuples(st.just("nothing"), st.sampled_from([1, 5, 70, 200])),
    st.tuples(st.just("stopped"), st.integers(0, 2)),
    st.tuples(st.just("exit"), st.integers(0, 2)),
)


class _Pair:
    """The same host twice: by the class as it is, told rank by rank, and by that for ranks that are alike."""

    def __init__(self) -> None:
        specs = tuple(WorkerSpec(f"rank_{rank}", rank, rank, rank, ("x",)) for rank in RANKS)
        manifest = Manifest("r", "j", "h", 0.0, specs, hosts=("h", "i"), monitor_lease=120.0)
        self.now, self.step = 100.0, 0
        self.each = SupervisorState(manifest, self.now)
        self.alike = AlikeRanks(manifest, self.now)
        for state in (self.each, self.alike):
            state.start(self.now)
            for rank in RANKS:
                state.started(rank, ProcessId(rank + 10, 1, "b"), WALL)
            state.commit()

    def live(self, what: str, number: int) -> None:
        self.now += float(number) if what == "nothing" else 2.0
        clock = WALL + self.now
        if what in ("steps", "computed", "save"):
            self.step += number
            line: dict[str, Any] = {"step": self.step, "time": clock - 0.5}
            line |= {"compute_s": number / 10} if what == "computed" else {}
            saved = {"phase": "step", "saved": self.step, "can": ["stacks"], "time": clock}
            self._say([saved, line] if what == "save" else [line], clock)
        for state in (self.each, self.alike):
            if what == "stopped" and state.is_running(number):
                self.alike.tell_apart()
                state.report_process(number, "T", self.now)
            if what == "exit" and state.is_running(number):
                state.exited([Exit(number, 1, clock)], self.now)

    def _say(self, lines: list[Mapping[str, Any]], clock: float) -> None:
        running = [rank for rank in RANKS if self.each.is_running(rank)]
        self.alike.report_alike(running, lines, self.now, clock)
        for rank in running:
            self.each.report_lines(rank, lines, self.now, clock)

    def compare(self) -> None:
        clock = WALL + self.now
        assert self.alike.tick(self.now, clock) == self.each.tick(self.now, clock)
        assert self.alike.status(clock) == self.each.status(clock)
        assert self.alike.step_seconds == self.each.step_seconds
        assert self.alike.save_seconds == self.each.save_seconds
        assert self.alike.compute == self.each.compute
        assert self.alike.lease_ends == self.each.lease_ends


@given(st.lists(THINGS, max_size=25))
def test_ranks_that_are_alike_are_as_each_of_them_would_be(things: list[tuple[str, int]]) -> None:
    pair = _Pair()
    for what, number in things:
        pair.live(what, number)
        pair.compare()


def test_all_of_them_stall_and_go_on_together() -> None:
    pair = _Pair()
    for what, number in (("steps", 1), ("steps", 1), ("nothing", 70), ("steps", 1), ("nothing", 1)):
        pair.live(what, number)
        pair.compare()
        are_stalled = [status.stalled is not None for status in pair.alike.workers.values()]
        assert are_stalled == [what == "nothing" and number > 60] * len(RANKS)
