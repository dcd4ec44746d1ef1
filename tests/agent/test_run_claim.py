"""Which control node may act on a run, as its supervisor decides it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.agent.run_claim import admitted
from orchestrator.core.errors import AgentError
from orchestrator.core.records import Claim
from orchestrator.testing.agent_host import AgentHost, sh

A, B = Claim(1, "a"), Claim(2, "b")
A_ROOM, LONG = {"epoch": 1, "holder": None}, {"epoch": 1, "holder": "x" * 1000}


def said(claim: Claim) -> dict[str, Any]:
    return {"epoch": claim.epoch, "holder": claim.holder}


def test_the_highest_epoch_is_in_force() -> None:
    assert admitted(None, said(A)) == A
    assert admitted(A, said(A)) == A
    assert admitted(A, said(B)) == B


@pytest.mark.parametrize(
    "late", [A, Claim(2, "c"), Claim(2)], ids=["older", "same in another name", "nameless"]
)
def test_who_comes_with_less_is_told_who_has_it(late: Claim) -> None:
    with pytest.raises(AgentError, match=r"in the hands of b \(claim 2\)") as caught:
        admitted(B, said(late))
    assert caught.value.kind == "claim" and "--take-over" in caught.value.remedy


def test_an_earlier_control_node_acts_on_a_run_that_nobody_has_taken_over() -> None:
    assert admitted(None, None) is None
    assert admitted(A, None) == A == admitted(A, said(Claim(0, "c")))
    with pytest.raises(AgentError) as caught:
        admitted(B, None)
    assert caught.value.kind == "claim"


@pytest.mark.parametrize(
    "odd",
    [1, "x", [], {}, *({"epoch": each} for each in ("1", True, -1, 1 << 60)), A_ROOM, LONG],
    ids=lambda odd: str(odd)[:40],
)
def test_what_is_no_claim_gives_none(odd: Any) -> None:
    with pytest.raises(AgentError) as caught:
        admitted(None, odd)
    assert caught.value.kind == "claim"


def test_a_supervisor_refuses_verbs_of_who_has_lost_the_run(host: AgentHost) -> None:
    host.prepare(host.manifest(sh("exec sleep 300")))
    host.tell("start", claim=said(A))
    assert host.tell("commit", claim=said(A))["claim"] == said(A)
    host.tell("commit", claim=said(B))
    assert host.status().claim == B
    for late in ({"claim": said(A)}, {}):
        with pytest.raises(AgentError, match="in the hands of b") as caught:
            host.tell("stop", reason="late", **late)
        assert caught.value.kind == "claim"
    assert host.states() == ["running"] and host.status().stop is None
    host.tell("stop", reason="enough", claim=said(B))
    status = host.wait_over()
    assert status.claim == B and str(status.ranks[0].state) == "stopped"


def test_a_control_node_of_an_earlier_version_starts_and_stops_its_runs(host: AgentHost) -> None:
    host.launch(sh("exec sleep 300"))
    host.tell("stop", reason="enough")
    assert host.wait_over().claim is None
