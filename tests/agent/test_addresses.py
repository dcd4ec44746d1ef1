"""What names mean on this host, and which addresses are its own."""

from __future__ import annotations

from orchestrator.agent.addresses import address_facts, meanings, network_id


def test_names_and_addresses() -> None:
    facts = address_facts(["localhost", "no.such.name.invalid", "10.9.8.7"], ["127.0.0.9", "203.0.113.7"])
    assert "127.0.0.1" in facts["found"]["localhost"]
    assert facts["found"]["no.such.name.invalid"] == []
    assert facts["found"]["10.9.8.7"] == ["10.9.8.7"]
    assert {"127.0.0.1", "127.0.0.9"} <= set(facts["own"])
    assert not {"203.0.113.7", "10.9.8.7"} & set(facts["own"])


def test_names_that_are_none() -> None:
    assert meanings("x" * 300) == [] == meanings("a..b")


def test_a_network_is_the_kernels_boot_and_a_namespace() -> None:
    boot, _, namespace = network_id().partition(" ")
    assert len(boot) == 36 and namespace.startswith("net:[")
    assert address_facts()["network"] == network_id()
