from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import pytest

from orchestrator.core.errors import ConnectError, TransportError
from orchestrator.hosts.transport import Transport
from orchestrator.testing.transport_contract import TransportContract, line_of, program
from orchestrator.testing.transport_program import main
from tests.hosts.scripted_transport import ScriptedTransport


class TestScriptedTransport(TransportContract):
    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        with ScriptedTransport("ghost", main) as transport:
            yield transport


def test_down() -> None:
    host = ScriptedTransport("ghost", main, down=True)
    with pytest.raises(ConnectError):
        host.connect()
    host.down = False
    host.connect()
    host.connect()
    assert host.connects == 1


def test_a_broken_connection_is_never_a_silent_end() -> None:
    with ScriptedTransport("ghost", main) as host:
        reading, waiting = host.open(program("hang")), host.open(program("hang"))
        assert line_of(reading) == b"hello\n"
        with ThreadPoolExecutor(2) as threads:
            calls = [threads.submit(reading.read, 1), threads.submit(waiting.wait, 20)]
            host.break_connection()
            for call in calls:
                with pytest.raises(TransportError, match="broke"):
                    call.result(60)
        with pytest.raises(TransportError, match="broke"):
            host.open(program("leave", "0"))
        host.connect()
        assert host.run(program("leave", "4")).exit_code == 4


def test_a_program_that_raises_ends_like_an_interpreter() -> None:
    def program_with_a_bug(argv: list[str], stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> int:
        raise ValueError("a bug")

    with ScriptedTransport("ghost", program_with_a_bug) as host:
        result = host.run(["anything"])
    assert result.exit_code == 1
    assert result.stderr.decode().endswith("ValueError: a bug\n")
