"""What a host may say of its copies: bounded, of its own ranks, and nothing that a terminal obeys."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from orchestrator.control.status_fold import folded
from orchestrator.core.codec import to_json
from orchestrator.core.push import Change, Mark, Snapshot
from orchestrator.core.records import CopiedFile, CopyStatus, ProcessId
from orchestrator.hosts.answer_checks import made_visible, pushed_of, status_of
from tests.hosts.lying_host import RUN, SHA, status

FILE = CopiedFile("rank_0/m_rank_0-1_2.ckpt", 2, 99, SHA)


def told(**changes: Any) -> Any:
    copies = dataclasses.replace(CopyStatus(2, 0, "", "b", (FILE,)), **changes)
    return to_json(dataclasses.replace(status(), copies=copies))


def test_what_an_honest_host_says_is_taken() -> None:
    found = status_of(told(), RUN, 8)
    assert found.copies == CopyStatus(2, 0, "", "b", (FILE,))
    of_strategy = dataclasses.replace(FILE, name="strategy/m_rank_0.ckpt")
    assert status_of(told(files=(of_strategy,)), RUN, 8).copies is not None
    shown = status_of(made_visible(told(error="\x1b[2J", keeper="\u202e")), RUN, 8).copies
    assert shown is not None and shown.error.isprintable() and shown.keeper.isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"lag": -1},
        {"error": "x" * 1001},
        {"keeper": "x" * 1001},
        {"files": (FILE,) * 9},  # of one rank
        {"files": (dataclasses.replace(FILE, name="../x"),)},
        {"files": (dataclasses.replace(FILE, name="rank_0/../x"),)},
        {"files": (dataclasses.replace(FILE, name="/rank_0/x"),)},
        {"files": (dataclasses.replace(FILE, name=""),)},
        {"files": (dataclasses.replace(FILE, size=-1),)},
        {"files": (dataclasses.replace(FILE, sha256="x"),)},
        {"files": (dataclasses.replace(FILE, sha256=SHA.upper()),)},
    ],
)
def test_what_no_copier_says_is_none_of_an_answer(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        status_of(told(**changes), RUN, 8)
    snapshot = {"sequence": 1, "clock": 1e9, "status": told(**changes), "supervisor": None}
    with pytest.raises(ValueError):
        pushed_of("snapshot", snapshot, RUN, 8, frozenset({0}))
    change = {"sequence": 2, "clock": 1e9, "phase": "committed", "copies": told(**changes)["copies"]}
    with pytest.raises(ValueError):
        pushed_of("change", change, RUN, 8, frozenset({0}))


def test_a_change_brings_the_copies_and_one_that_says_nothing_keeps_them() -> None:
    supervisor = ProcessId(7, 70, "boot")
    known, mark, _ = folded(None, None, Snapshot(1, 1e9, status(), supervisor))
    copies = CopyStatus(4, 0, "", "b")
    known, mark, _ = folded(known, mark, Change(2, 1e9, "committed", copies=copies))
    assert known is not None and known.copies == copies and mark == Mark(supervisor, 2)
    known, _, _ = folded(known, mark, Change(3, 1e9, "stopping"))  # as earlier versions tell
    assert known is not None and known.copies == copies
