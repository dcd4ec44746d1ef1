"""The file descriptors of a control node: raised as far as needed, or refused in a line."""

from __future__ import annotations

import resource

import pytest

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.errors import OrchestrateError
from orchestrator.hosts.descriptors import DescriptorLimit, require_descriptors
from orchestrator.hosts.fleet import fleet_of


class Limit(DescriptorLimit):
    def __init__(self, soft: int, hard: int, is_open: int = 20, most: int | None = None) -> None:
        self.soft, self.hard, self.is_open, self.most = soft, hard, is_open, most

    def get(self) -> tuple[int, int]:
        return self.soft, self.hard

    def set(self, soft: int, hard: int) -> None:
        if self.most is not None and soft > self.most:
            raise ValueError("current limit exceeds maximum limit")
        self.soft, self.hard = soft, hard

    def open(self) -> int:
        return self.is_open


def test_the_limit_is_raised_to_what_is_needed_and_no_further() -> None:
    limit = Limit(1024, 524288)
    require_descriptors(4000, "connections", limit, reserve=64)
    assert limit.get() == (4084, 524288)


@pytest.mark.parametrize("soft", [1024, resource.RLIM_INFINITY])
def test_a_limit_that_suffices_is_left_alone(soft: int) -> None:
    limit = Limit(soft, resource.RLIM_INFINITY)
    require_descriptors(900, "connections", limit, reserve=64)
    assert limit.get() == (soft, resource.RLIM_INFINITY)


def test_no_hard_limit_allows_for_everything() -> None:
    limit = Limit(256, resource.RLIM_INFINITY)
    require_descriptors(100_000, "connections", limit)
    assert limit.soft > 100_000


@pytest.mark.parametrize("limit", [Limit(1024, 2048), Limit(2048, resource.RLIM_INFINITY, most=2048)])
def test_what_is_not_allowed_is_one_line_with_a_remedy(limit: Limit) -> None:
    with pytest.raises(OrchestrateError) as caught:
        require_descriptors(4000, "connections", limit, reserve=64)
    (line,) = caught.value.lines()
    assert line.startswith("control node: connections need 4084 open files here, and only 2048 are")
    assert "raise the hard limit to 4084" in line
    assert caught.value.exit_code == 2


def test_a_fleet_is_refused_before_a_host_is_touched() -> None:
    """More hosts than any machine has descriptors for; had one been dialled, nobody would listen there."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > 100_000:
        pytest.skip(f"{hard} descriptors are allowed here")
    hosts = [Host(name=f"h{n}", address="127.0.0.1", transport="local") for n in range(hard // 3)]
    with pytest.raises(OrchestrateError, match="open files here"):
        fleet_of(hosts, SshOptions())


def test_the_real_limit_is_read_and_set() -> None:
    limit = DescriptorLimit()
    assert limit.open() >= 3
    soft, hard = limit.get()
    limit.set(soft, hard)
    assert limit.get() == (soft, hard)
