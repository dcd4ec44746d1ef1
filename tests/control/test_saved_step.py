"""Which step hosts are told to keep: one that all have saved and, where copies are made, that is copied."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.control.run_record import HostView
from orchestrator.control.run_tally import RunTally
from orchestrator.core.records import CopyStatus
from tests.control.judged import rank, view


def host(name: str, saved: int | None, copied: int | None = None, *, copies: bool = False) -> HostView:
    seen = view(name, *(dataclasses.replace(rank(number), saved=saved) for number in (0, 1)))
    if not copies:
        return seen
    assert seen.status is not None
    return dataclasses.replace(seen, status=dataclasses.replace(seen.status, copies=CopyStatus(copied)))


@pytest.mark.parametrize(
    ("a", "b", "step"),
    [
        (host("a", 12), host("b", 8), 8),
        (host("a", 12), host("b", None), None),
        (host("a", 12, 4, copies=True), host("b", 12, 8, copies=True), 4),
        (host("a", 12, 12, copies=True), host("b", 12, 12, copies=True), 12),
        (host("a", 12, 12, copies=True), host("b", 12, None, copies=True), None),
        (host("a", 12, 12, copies=True), host("b", 8, 8, copies=True), 8),
    ],
)
def test_the_newest_step_that_would_outlive_a_host(a: HostView, b: HostView, step: int | None) -> None:
    assert RunTally({"a": a, "b": b}).saved_step(2) == step
    assert RunTally({"a": a}).saved_step(2) is None
