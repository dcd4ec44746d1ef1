"""A clock that a test moves, two hosts with two ranks each, and the watch over them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.control.watch import Watch
from tests.control.judged import START, FakeHost, rank, watch
from tests.hosts.push_host import Hands


@pytest.fixture
def clock() -> Hands:
    return Hands(START)


@pytest.fixture
def hosts() -> tuple[FakeHost, FakeHost]:
    """Two hosts of two running ranks each."""
    return FakeHost("a", rank(0), rank(1)), FakeHost("b", rank(2), rank(3))


@pytest.fixture
def watched(clock: Hands, hosts: tuple[FakeHost, FakeHost]) -> Iterator[Watch]:
    made = watch(clock, *hosts)
    yield made
    made.close()
