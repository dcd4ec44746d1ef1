"""At which address the scheduler listens: names, loopback, aliases of the ssh config, IPv6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.config.inventory import Host
from orchestrator.core.codec import from_json
from orchestrator.core.host_answers import Addresses
from orchestrator.preflight.checks_scheduler import _facts, scheduler_address, scheduler_is_reached
from orchestrator.preflight.host_facts import AddressFacts, HostFacts, Needs
from orchestrator.preflight.report import Level
from tests.preflight.test_checks import probe

A, B = Host(name="a", address="npu-a"), Host(name="b", address="npu-b")


def look(
    *candidates: str,
    own: tuple[str, ...] | None = None,
    networks: tuple[str, str] = ("one", "two"),
    names: tuple[str, ...] = ("npu-a",),
    hosts: tuple[Host, ...] = (A, B),
    mindspore: str | None = None,
) -> tuple[str | None, tuple[Level, str, str]]:
    """The address, and what the check says."""
    needs = Needs(hosts=hosts, scheduler=names)
    first = AddressFacts(candidates, frozenset(candidates if own is None else own), networks[0])
    facts = {"a": HostFacts(probe(packages={"mindspore": mindspore}), addresses=first)}
    if len(hosts) > 1:
        facts["b"] = HostFacts(probe(), addresses=AddressFacts(network=networks[1]))
    (result,) = scheduler_is_reached(needs, facts)
    assert result.host == "a"
    return scheduler_address(needs, facts), (result.level, result.what, result.remedy)


@pytest.mark.parametrize(
    ("candidates", "own", "wanted"),
    [
        (("10.0.0.1",), None, "10.0.0.1"),
        # Debian's 127.0.1.1, with a real address beside it, there or here.
        (("127.0.1.1", "10.0.0.1"), None, "10.0.0.1"),
        # What is the host's own goes before what was found first.
        (("203.0.113.7", "10.0.0.1"), ("10.0.0.1",), "10.0.0.1"),
        (("fd00::1", "10.0.0.1"), None, "10.0.0.1"),
        (("fe80::1", "fd00::1"), None, "fd00::1"),
        (("10.0.0.2", "10.0.0.1"), None, "10.0.0.2"),
    ],
)
def test_which_address(candidates: tuple[str, ...], own: tuple[str, ...] | None, wanted: str) -> None:
    address, (level, what, _) = look(*candidates, own=own, mindspore="2.10.0")
    assert (address, level, what) == (wanted, Level.OK, f"at {wanted}")


REMEDY = "give the address at which the others reach it as `address:`"


@pytest.mark.parametrize(
    ("candidates", "names", "what"),
    [
        (
            ("127.0.1.1",),
            ("npu-a",),
            "its name npu-a means 127.0.1.1: of no use to the other hosts, which look for the scheduler"
            " there",
        ),
        (
            ("127.0.0.2",),
            ("127.0.0.2",),
            "127.0.0.2: of no use to the other hosts, which look for the scheduler there",
        ),
        ((), ("npu-a", "alias"), "its name npu-a means no address, neither there nor on this machine"),
        (
            ("fe80::1", "0.0.0.0"),
            ("npu-a",),
            "its name npu-a means fe80::1, 0.0.0.0: of no use to the other hosts, which look for the"
            " scheduler there",
        ),
    ],
)
def test_refused_by_name(candidates: tuple[str, ...], names: tuple[str, ...], what: str) -> None:
    assert look(*candidates, names=names) == (None, (Level.FAIL, what, REMEDY))


def test_loopback_serves_hosts_that_share_it() -> None:
    assert look("127.0.0.1", networks=("one", "one"))[0] == "127.0.0.1"
    # Two tunnels that end on this machine have loopback addresses both, and lead to two machines.
    local = tuple(replace(host, address=f"127.0.0.{n}") for n, host in enumerate((A, B), 2))
    assert look("127.0.0.2", names=("127.0.0.2",), hosts=local)[0] is None
    assert look("127.0.0.2", names=("127.0.0.2",), hosts=local, networks=("one", "one"))[0] == "127.0.0.2"


def test_a_host_that_does_not_answer_is_not_told_of_twice() -> None:
    facts = {
        "a": HostFacts(
            probe(packages={}), addresses=AddressFacts(("127.0.0.1",), frozenset(["127.0.0.1"]), "n")
        )
    }
    (result,) = scheduler_is_reached(Needs(hosts=(A, B), scheduler=("localhost",)), facts)
    assert (result.level, result.what) == (Level.OK, "at 127.0.0.1")


def test_where_networks_are_not_known_addresses_decide() -> None:
    local = tuple(replace(host, address=f"127.0.0.{n}") for n, host in enumerate((A, B), 2))
    assert look("127.0.0.2", names=("127.0.0.2",), hosts=local, networks=("", ""))[0] == "127.0.0.2"
    assert look("127.0.0.2", networks=("", ""))[0] is None


def test_one_host_may_meet_anywhere() -> None:
    assert look("127.0.0.1", hosts=(A,), names=("127.0.0.1",))[0] == "127.0.0.1"


def test_an_address_that_is_not_the_hosts_own_is_doubted() -> None:
    address, (level, what, remedy) = look("203.0.113.7", own=(), names=("203.0.113.7",))
    assert address == "203.0.113.7" and level is Level.WARN
    assert what == "the scheduler is to listen at 203.0.113.7, which is no address of the host itself"
    assert remedy == "give one of its own addresses as `address:`"


@pytest.mark.parametrize(
    ("version", "level"), [("2.10.0", Level.OK), ("2.7.1", Level.WARN), (None, Level.WARN)]
)
def test_ipv6_needs_a_newer_mindspore(version: str | None, level: Level) -> None:
    assert look("fd00::1", mindspore=version)[1][0] is level


def test_no_scheduler_no_question() -> None:
    (result,) = scheduler_is_reached(Needs(hosts=(A, B)), {})
    assert (result.level, result.what) == (Level.SKIP, "the job needs none")
    (result,) = scheduler_is_reached(Needs(hosts=(A, B), has_job=False), {})
    assert result.what == "no --job"
    (result,) = scheduler_is_reached(Needs(hosts=(A, B), by_table_alone=True), {})
    assert result.level is Level.WARN and "legacy_rank_table" in result.what
    assert list(scheduler_is_reached(Needs(hosts=(A, B), scheduler=("npu-a",)), {})) == []


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"found": {"npu-a": ["x; rm -rf /", "fe80::1%eth0", ""]}, "own": ["y"]},
    ],
)
def test_a_host_is_believed_nothing_but_addresses(answer: Any) -> None:
    assert _facts(from_json(Addresses, answer), {"npu-a": []}) == AddressFacts()


def test_the_order_of_the_candidates() -> None:
    answer = {"found": {"npu-a": ["10.0.0.1"], "alias": ["10.0.0.5"]}, "own": ["10.0.0.5"], "network": "n"}
    here = {"npu-a": ["10.0.0.2", "10.0.0.1"], "alias": ["10.0.0.6"]}
    assert _facts(from_json(Addresses, answer), here) == AddressFacts(
        ("10.0.0.1", "10.0.0.2", "10.0.0.5", "10.0.0.6"), frozenset({"10.0.0.5"}), "n"
    )
    many = {"found": {"npu-a": [f"10.0.{n // 250}.{n % 250}" for n in range(1000)]}}
    assert len(_facts(from_json(Addresses, many), {"npu-a": []}).candidates) == 32


@pytest.mark.parametrize("address", ["255.255.255.255", "224.0.0.1", "239.1.2.3", "ff02::1", "0.0.0.0", "::"])
def test_what_is_no_place_of_one_host_is_refused(address: str) -> None:
    for hosts in ((A, B), (A,)):
        found, (level, what, remedy) = look(address, names=(address,), hosts=hosts)
        assert (found, level, remedy) == (None, Level.FAIL, REMEDY)
        assert what.startswith(f"{address}: of no use")
