from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from orchestrator.core.errors import CommandTimeout, TransportError
from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.transport import Transport
from orchestrator.testing.transport_contract import ProcessContract, is_alive, line_of, program


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
        pid = int(line_of(channel))
        channel.close()
        assert not is_alive(pid)
        assert channel.wait() == -signal.SIGTERM


def test_a_buffer_is_filled_or_the_time_is_over() -> None:
    with LocalTransport("here") as transport:
        script = "printf abc; sleep 0.2; printf defgh; sleep 30"
        with transport.open(["sh", "-c", script]) as channel:
            buffer = memoryview(bytearray(8))
            channel.timeout = 20
            assert channel.read_into(buffer) == 8 and bytes(buffer) == b"abcdefgh"
            channel.timeout = 0.2
            with pytest.raises(CommandTimeout):
                channel.read_into(buffer)
        with transport.open(["printf", "abc"]) as channel:
            assert (channel.read_into(buffer), channel.read_into(buffer)) == (3, 0)


def test_what_does_not_answer_in_time_is_told_without_its_source() -> None:
    with LocalTransport("here") as transport, pytest.raises(CommandTimeout) as caught:
        transport.run(["/bin/sh", "-c", "# a program\nsleep 60"], timeout=0.2)
    assert str(caught.value) == "here: no answer within 0.2 s from `/bin/sh -c`"
