from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from orchestrator.errors import TransportError
from orchestrator.transport.base import Transport
from orchestrator.transport.local import LocalTransport
from tests.transport.contract import ProcessContract, is_alive, program


class TestLocalTransport(ProcessContract):
    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        with LocalTransport("here") as transport:
            yield transport


def test_not_connected() -> None:
    with pytest.raises(TransportError, match="not connected"):
        LocalTransport("here").open(program("leave", "0"))


def test_an_argument_list_that_is_too_long() -> None:
    with LocalTransport("here") as transport, pytest.raises(TransportError, match="cannot start"):
        transport.open(["true", "x" * 4_000_000])


def test_closing_ends_a_process_that_ignores_its_stdin() -> None:
    with LocalTransport("here") as transport:
        channel = transport.open(program("stubborn"))
        pid = int(channel.read_line())
        channel.close()
        assert not is_alive(pid)
        assert channel.wait() == -signal.SIGTERM
