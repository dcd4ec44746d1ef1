"""Whether copies would get from host to host: the verdicts, and real hosts that listen and connect."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.errors import OrchestrateError
from orchestrator.hosts.fleet import HostResults, fleet_of
from orchestrator.plan.copy_ring import CopyRing, keepers_of
from orchestrator.preflight.checks_copies import copies_get_there
from orchestrator.preflight.copy_tries import try_copies
from orchestrator.preflight.host_facts import CopyFacts, HostFacts, Needs
from orchestrator.preflight.report import Level
from tests.agent.copying import free_ports
from tests.config.support import inventory
from tests.preflight.test_checks import probe


def needs(hosts: tuple[Host, ...], network: str = "127.0.0.0/8") -> Needs:
    return Needs(hosts=hosts, copies=CopyRing(network, free_ports(16), 5, keepers_of(hosts)))


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[Host, ...]:
    text = (
        "transport: local\n"
        f"defaults: {{devices: 0-1, workdir: '{tmp_path}/{{name}}'}}\n"
        "hosts:\n  - name: h[1-3]\n"
    )
    return inventory(tmp_path, text).hosts


def tried(needs: Needs) -> HostResults[CopyFacts]:
    with fleet_of(needs.hosts, SshOptions()) as fleet:
        return try_copies(needs, fleet, [host.name for host in needs.hosts])


def test_hosts_of_one_network_reach_each_other_both_ways(hosts: tuple[Host, ...]) -> None:
    found = tried(needs(hosts))
    assert found.errors == {}
    assert found.values == {host.name: CopyFacts(address="127.0.0.1") for host in hosts}


def test_a_host_without_an_address_in_the_network_is_named(hosts: tuple[Host, ...]) -> None:
    found = tried(needs(hosts, "203.0.113.0/24"))
    assert {one.trouble for one in found.values.values()} == {"has no address in 203.0.113.0/24"}
    assert found.errors == {}


def test_a_network_whose_ports_are_taken_is_named(hosts: tuple[Host, ...]) -> None:
    wanted = needs(hosts)
    assert wanted.copies is not None
    first, _ = wanted.copies.ports
    few = dataclasses.replace(wanted, copies=dataclasses.replace(wanted.copies, ports=(first, first + 1)))
    troubles = [one.trouble for one in tried(few).values.values()]
    # Three hosts on one machine, and two ports.
    assert sum("no port of" in text for text in troubles) >= 1


def test_without_copies_nobody_is_asked(hosts: tuple[Host, ...]) -> None:
    nothing = try_copies(Needs(hosts=hosts), object(), ["h1"])  # type: ignore[arg-type]
    assert nothing.values == {} and nothing.errors == {}


def verdicts(**found: CopyFacts) -> list[tuple[str, Level, str]]:
    hosts = tuple(Host(name=name, address=f"10.0.0.{index + 1}") for index, name in enumerate(found))
    facts = {name: HostFacts(probe(), copies=one) for name, one in found.items()}
    return [
        (result.host, result.level, result.what)
        for result in copies_get_there(needs(hosts, "10.0.0.0/24"), facts)
    ]


def test_what_is_said_of_each_host() -> None:
    assert verdicts(
        a=CopyFacts(address="10.0.0.1"),
        b=CopyFacts(trouble="no port of 1-2 is free"),
        c=CopyFacts(address="10.0.0.3", has_tls=False),
        d=CopyFacts(address="10.0.0.4", unreached={"a": "10.0.0.1 port 1024: timed out"}),
    ) == [
        ("a", Level.OK, "over 10.0.0.0/24"),
        ("b", Level.FAIL, "no port of 1-2 is free"),
        ("c", Level.FAIL, "its Python has no ssl module, without which no copies are made"),
        ("d", Level.FAIL, "does not reach a at 10.0.0.1 port 1024: timed out"),
    ]
    assert list(copies_get_there(Needs(hosts=()), {"a": HostFacts(probe())})) == []


def test_a_port_that_refuses_or_is_somebody_elses_is_told(hosts: tuple[Host, ...]) -> None:
    wanted = needs(hosts)
    ring = wanted.copies
    assert ring is not None
    with fleet_of(hosts[:1], SshOptions()) as fleet:
        agent = fleet.agent("h1")
        there = agent.copy_listen(ring.network, ring.ports, run_id="r", host="h1", word="mine")
        assert there.tls

        def reach(word: str, port: int) -> str:
            return agent.copy_reach("127.0.0.1", "127.0.0.1", port, word, timeout=30.0)

        assert reach("mine", there.port) == ""
        assert reach("yours", there.port) == "somebody else answers there"
        again = agent.copy_listen(ring.network, ring.ports, run_id="r", host="h1", word="new")
        assert reach("new", again.port) == ""
        assert "refused" in reach("mine", 1)
        agent.copy_close()
        assert "refused" in reach("new", again.port)
        with pytest.raises(OrchestrateError):
            agent.copy_listen("203.0.113.0/24", ring.ports, run_id="r", host="h1", word="mine")
