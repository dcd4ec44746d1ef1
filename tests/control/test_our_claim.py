"""The claim of a control node on a run, as it is taken over from hosts that may say anything."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from orchestrator.control.our_claim import here, take_over
from orchestrator.control.run_record import read_record
from orchestrator.control.runs import make_control_dir
from orchestrator.core.errors import HostsFailed, OrchestrateError
from orchestrator.core.records import Claim
from orchestrator.hosts.fleet import Fleet
from tests.control.evident import FakeAgent, FakeFleet, plan_of


class Host:
    """One that knows a claim."""

    def __init__(self, epoch: int) -> None:
        self.claim_there = Claim(epoch, "somebody")

    def claim(self, run_id: str, take: Claim | None = None) -> Claim:
        self.claim_there = take or self.claim_there
        return self.claim_there


def fleet_of(**hosts: Host) -> Fleet:
    return cast(Fleet, FakeFleet(cast("dict[str, FakeAgent | None]", hosts)))


def test_a_host_that_names_a_claim_beyond_all_counting_is_left_aside(tmp_path: Path) -> None:
    control, honest, liar = make_control_dir(plan_of(), tmp_path), Host(3), Host(10**15 - 1)
    told = take_over(control, fleet_of(a=honest, b=liar))
    assert list(told) == ["b"] and "which nobody can have come to" in str(told["b"])
    assert honest.claim_there == read_record(control).claim == Claim(4, here(control))
    assert liar.claim_there.holder == "somebody"
    with pytest.raises((HostsFailed, OrchestrateError), match="which nobody can have come to"):
        take_over(control, fleet_of(b=liar))
