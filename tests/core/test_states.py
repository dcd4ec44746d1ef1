"""States: what is an end, and how rank states make the run's."""

from __future__ import annotations

import pytest

from orchestrator.core.states import RankState, RunState, fold


@pytest.mark.parametrize(
    ("ranks", "run"),
    [
        ("", "preparing"),
        ("pending pending", "starting"),
        ("running starting", "starting"),
        ("running succeeded", "running"),
        ("succeeded succeeded", "succeeded"),
        ("running unreachable", "running"),
        ("succeeded stopped", "stopped"),
        ("stopped failed running", "failed"),
        ("lost succeeded", "failed"),
    ],
)
def test_fold(ranks: str, run: str) -> None:
    assert fold(RankState(name) for name in ranks.split()) is RunState(run)


def test_ends() -> None:
    assert {str(state) for state in RankState if state.is_terminal} == {
        "succeeded",
        "failed",
        "stopped",
        "lost",
    }
    assert {str(state) for state in RunState if state.is_terminal} == {"succeeded", "failed", "stopped"}


def test_every_rank_state_folds_into_a_run_state() -> None:
    for state in RankState:
        assert isinstance(fold([state]), RunState)
