"""Who pings whom, and who is to blame."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.ascend.tool_answers import ToolAnswer, hccn
from orchestrator.preflight.host_facts import Facts, HostFacts, Needs, Pings, PingTry
from orchestrator.preflight.pings import devices_reach_each_other, pairs_of
from orchestrator.preflight.report import Level, Result
from tests.preflight.test_checks import A, probe

PING = hccn(0, "-ping", "address", "10.0.0.1")
TEXT = "3 packets transmitted, {} received, {}% packet loss\n"


@given(count=st.integers(0, 40))
def test_all_pairs_each_once_and_shared_evenly(count: int) -> None:
    hosts = [f"h{number}" for number in range(count)]
    pairs = pairs_of(hosts, "pairs")
    assert {frozenset(pair) for pair in pairs} == {frozenset(pair) for pair in combinations(hosts, 2)}
    assert len(pairs) == count * (count - 1) // 2
    asked = [sum(pair[0] == host for pair in pairs) for host in hosts]
    assert not asked or max(asked) - min(asked) <= 1


@pytest.mark.parametrize(("count", "pairs"), [(0, 0), (1, 0), (2, 1), (3, 3), (64, 64)])
def test_a_ring(count: int, pairs: int) -> None:
    hosts = [f"h{number}" for number in range(count)]
    ring = pairs_of(hosts, "ring")
    assert len(ring) == len({frozenset(pair) for pair in ring}) == pairs
    assert pairs_of(hosts, "none") == []


def verdicts(hosts: int, lost: set[tuple[int, int]], pings: Pings = "pairs") -> list[Result]:
    """The bad results for one device per host, where the pings between `lost` hosts do not get through."""
    names = [f"h{number}" for number in range(hosts)]
    facts: Facts = {
        name: HostFacts(
            probe(),
            pings=tuple(
                PingTry(0, peer, f"10.0.0.{peer[1:]}", answer(frozenset((name, peer)) in broken(lost)))
                for first, peer in pairs_of(names, pings)
                if first == name
            ),
        )
        for name in names
    }
    results = list(devices_reach_each_other(Needs((A,), pings=pings), facts))
    assert {result.host for result in results} == set(names)
    return [result for result in results if result.level is Level.FAIL]


def broken(lost: set[tuple[int, int]]) -> set[frozenset[str]]:
    return {frozenset((f"h{first}", f"h{second}")) for first, second in lost}


def answer(is_lost: bool) -> ToolAnswer:
    return ToolAnswer(
        hccn(0, "-ping", "address", "10.0.0.1"),
        TEXT.format(0, "100.00") if is_lost else TEXT.format(3, "0.00"),
    )


def test_nothing_lost() -> None:
    assert verdicts(5, set()) == []


def test_one_dead_device_is_named_once() -> None:
    (found,) = verdicts(5, {(3, other) for other in range(5) if other != 3})
    assert (found.host, found.devices) == ("h3", (0,))
    assert found.what.startswith("no ping gets through to or from h[0-2,4]: 0 of 3 packets came back")


def test_two_dead_devices_are_both_named() -> None:
    lost = {(dead, other) for dead in (1, 3) for other in range(6) if other != dead}
    assert sorted(result.host for result in verdicts(6, lost)) == ["h1", "h3"]


def test_one_lost_pair_names_both_ends() -> None:
    (found,) = verdicts(5, {(1, 2)})
    assert {found.host, found.what.partition("'")[0].removeprefix("cannot reach ")} == {"h1", "h2"}


def test_two_hosts() -> None:
    (found,) = verdicts(2, {(0, 1)})
    assert "cannot reach" in found.what


def test_a_ring_blames_the_device_whose_both_pings_are_lost() -> None:
    (found,) = verdicts(20, {(4, 5), (5, 6)}, "ring")
    assert found.host == "h5"


def test_nobody_reaches_anybody() -> None:
    found = verdicts(4, set(combinations(range(4), 2)))
    assert 3 <= len(found) <= 4


def test_an_answer_that_cannot_be_read_is_a_failure() -> None:
    bad = PingTry(2, "b", "10.0.0.1", ToolAnswer(PING, "device 2 PING 10.0.0.1\n"))
    facts: Facts = {"a": HostFacts(probe(), pings=(bad,)), "b": HostFacts(probe())}
    found = [
        each
        for each in devices_reach_each_other(Needs((A,), pings="ring"), facts)
        if each.level is Level.FAIL
    ]
    assert "expected `N packets transmitted" in found[0].what
