"""The scheduler's fixed port is asked for where the scheduler will listen, as the launch asks for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.hosts.fleet import fleet_of
from orchestrator.preflight.checks_host import ports_are_free
from orchestrator.preflight.gather_facts import gather
from orchestrator.preflight.host_facts import Needs
from orchestrator.preflight.report import Level


@pytest.fixture
def port() -> Iterator[int]:
    """One on which something listens, at 127.0.0.1 alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("scheduler", "is_free"),
    [
        (("127.0.0.1",), False),
        # With names, whatever the host is called in the inventory.
        (("localhost",), False),
        # Another loopback address is nobody's yet.
        (("127.0.0.9",), True),
        # No address of this machine: nothing can be told.
        (("203.0.113.7",), True),
        ((), True),
    ],
)
def test_what_listens_where_the_scheduler_will(
    tmp_path: Path, port: int, scheduler: tuple[str, ...], is_free: bool
) -> None:
    host = Host(name="a", address="nx.invalid", transport="local", workdir=str(tmp_path / "work"))
    needs = Needs(hosts=(host,), port=port, scheduler=scheduler)
    with fleet_of((host,), SshOptions()) as fleet:
        facts, errors = gather(needs, fleet)
    assert errors == {}
    (result,) = ports_are_free(needs, facts)
    assert (result.level, result.what) == (
        (Level.OK, "")
        if is_free
        else (Level.FAIL, f"port {port} on 127.0.0.1 cannot be used: Address already in use")
    )


def test_a_port_is_named_once(tmp_path: Path, port: int) -> None:
    host = Host(name="a", address="127.0.0.1", transport="local", workdir=str(tmp_path / "work"))
    needs = Needs(hosts=(host,), port=port, scheduler=("127.0.0.1",))
    with fleet_of((host,), SshOptions()) as fleet:
        facts, _ = gather(needs, fleet)
    (result,) = ports_are_free(needs, facts)
    assert result.what == f"port {port} is in use"
