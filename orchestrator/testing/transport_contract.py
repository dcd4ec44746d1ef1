"""The contract of transports: what each must do; a subclass for each provides `transport`, connected."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.core.errors import CommandTimeout, TransportError
from orchestrator.hosts.scheduling import Signal
from orchestrator.hosts.transport import Channel, Transport


def line_of(channel: Channel) -> bytes:
    """The next line with its newline; what there is at the end."""
    line = b""
    while not line.endswith(b"\n") and (piece := channel.read(1)):
        line += piece
    return line


def exactly(channel: Channel, size: int) -> bytes:
    """The next `size` bytes; fewer at the end."""
    data = b""
    while len(data) < size and (piece := channel.read(size - len(data))):
        data += piece
    return data


ODD_WORDS = [
    "two words",
    "it's",
    'say "hi"',
    "line\nbreak",
    "tab\tstop",
    "",
    "$HOME",
    "`id`",
    "$(id)",
    ";",
    "&& false",
    "-n",
    "--help",
    "*",
    "~",
    "a=b",
    "back\\slash",
    "!!",
    "#no comment",
    "用户",
    "ünï",
    "\x01\x7f",
    "%s",
    "x" * 20000,
]


def program(*words: str) -> list[str]:
    """The argv that runs a verb of program.py; -I -S because start-up time is what these tests wait for."""
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("transport_program.py")), "--", *words]


class TransportContract:
    """What every transport does. `signal`: a flag that is waited for by the transport's own clock."""

    def signal(self, transport: Transport) -> Signal:
        return threading.Event()

    def test_argv_arrives_word_by_word(self, transport: Transport) -> None:
        result = transport.run(program("show", *ODD_WORDS), timeout=20)
        assert result.stdout.decode() == repr(ODD_WORDS)
        assert (result.host, result.exit_code, result.stderr) == (transport.host, 0, b"")

    @pytest.mark.parametrize("code", [0, 1, 7, 126, 255])
    def test_exit_code(self, transport: Transport, code: int) -> None:
        assert transport.run(program("leave", str(code)), timeout=20).exit_code == code

    @pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGKILL", "SIGSEGV", "SIGUSR1", "SIGABRT"])
    def test_death_by_signal_is_a_negative_code(self, transport: Transport, name: str) -> None:
        assert transport.run(program("die", name), timeout=20).exit_code == -getattr(signal, name)

    def test_eight_megabytes_there_and_back(self, transport: Transport) -> None:
        data = os.urandom(8 << 20)
        assert transport.run(program("echo"), stdin=data, timeout=20).stdout == data

    def test_stderr_is_drained_and_its_end_is_kept(self, transport: Transport) -> None:
        with transport.open(program("flood", "100")) as channel:
            channel.timeout = 20
            assert line_of(channel) == b"done\n"
            assert channel.read(10) == b""
            assert channel.wait(20) == 3
            assert channel.last_words() == "the last words"
            assert len(channel.stderr_bytes()) == 64 * 1024

    def test_a_conversation(self, transport: Transport) -> None:
        with transport.open(program("echo")) as channel:
            channel.timeout = 20
            channel.write(b"one\ntwo\nthree")
            assert line_of(channel) == b"one\n"
            assert line_of(channel) == b"two\n"
            assert exactly(channel, 5) == b"three"
            channel.write(memoryview(b"\x00\xff\n"))
            assert exactly(channel, 2) == b"\x00\xff"
            assert channel.read(10) == b"\n"
            channel.close_stdin()
            channel.close_stdin()
            assert channel.read(1) == b""
            assert channel.read(1) == b""
            assert line_of(channel) == b""
            assert channel.wait(20) == 0

    def test_an_end_that_comes_too_early(self, transport: Transport) -> None:
        with transport.open(program("echo")) as channel:
            channel.timeout = 20
            channel.write(b"half")
            channel.close_stdin()
            assert exactly(channel, 9) == b"half"
            buffer = memoryview(bytearray(9))
            assert channel.read_into(buffer) == 0

    def test_a_process_that_does_not_read_is_no_error_of_run(self, transport: Transport) -> None:
        result = transport.run(program("deaf"), stdin=bytes(4 << 20), timeout=20)
        assert (result.stdout, result.exit_code) == (b"not listening", 0)

    def test_writing_to_a_process_that_is_gone(self, transport: Transport) -> None:
        with transport.open(program("deaf")) as channel:
            channel.timeout = 20
            assert exactly(channel, 13)
            channel.wait(20)
            with pytest.raises(TransportError):
                channel.write(bytes(4 << 20))
                channel.write(b"more")

    def test_many_channels_at_once(self, transport: Transport) -> None:
        together = threading.Barrier(8)

        def talk(number: int) -> bytes:
            with transport.open(program("echo")) as channel:
                channel.timeout = 30
                together.wait(30)
                data = bytes([number]) * 300_000
                writer = threading.Thread(target=channel.write, args=(data,))
                writer.start()
                answer = exactly(channel, len(data))
                writer.join()
                assert answer == data
                return answer[:1]

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(talk, range(8))) == [bytes([number]) for number in range(8)]

    def test_silence_is_a_timeout(self, transport: Transport) -> None:
        with transport.open(program("hang")) as channel:
            channel.timeout = 20
            assert line_of(channel) == b"hello\n"
            channel.timeout = 0.05
            with pytest.raises(CommandTimeout, match=r"0.05 s") as caught:
                channel.read(1)
            assert caught.value.where == transport.host
            with pytest.raises(CommandTimeout):
                channel.wait(0.05)
            channel.timeout = 20
            channel.close_stdin()
            assert channel.read(1) == b""
            assert channel.wait(20) == 0

    def test_who_does_not_wait_is_told(self, transport: Transport) -> None:
        told = self.signal(transport)
        with transport.open(program("echo")) as channel:
            channel.timeout = 20
            channel.on_readable(told.set)
            found = b""
            for part in (b"one\n", b"two\n" * 10_000, b"three\n"):
                channel.write(part)
                expected = found + part
                while len(found) < len(expected):
                    assert told.wait(20)
                    told.clear()
                    while (piece := channel.read_ready(1 << 16)) is not None:
                        assert 0 < len(piece) <= 1 << 16
                        found += piece
                assert found == expected
            # Reading in the other way does not keep anybody from being told afterwards.
            channel.write(b"four\n")
            assert exactly(channel, 5) == b"four\n"
            assert channel.read_ready(10) is None
            told.clear()
            channel.close_stdin()
            assert told.wait(20) and channel.read_ready(10) == b""

    def test_many_are_told_without_a_thread_for_each(self, transport: Transport) -> None:
        with contextlib.ExitStack() as stack:
            channels = [stack.enter_context(transport.open(program("hang"))) for _ in range(6)]
            for channel in channels:
                channel.timeout = 20
                line_of(channel)
            before, told = threading.active_count(), threading.Semaphore(0)
            for channel in channels:
                channel.on_readable(told.release)
                assert channel.read_ready(10) is None
            assert threading.active_count() <= before + 1
            while told.acquire(blocking=False):
                pass
            for channel in channels:
                channel.close_stdin()
            for _ in channels:
                assert told.acquire(timeout=20)

    def test_who_does_not_wait_is_told_of_a_close(self, transport: Transport) -> None:
        told = self.signal(transport)
        channel = transport.open(program("hang"))
        channel.timeout = 20
        line_of(channel)
        channel.on_readable(told.set)
        assert channel.read_ready(10) is None
        told.clear()
        channel.close()
        assert told.wait(20)
        with pytest.raises(TransportError, match="closed"):
            channel.read_ready(10)

    def test_run_has_a_deadline_for_all_of_it(self, transport: Transport) -> None:
        with pytest.raises(CommandTimeout, match=r"0.4 s"):
            transport.run(program("stubborn"), timeout=0.4)

    def test_a_write_that_nobody_takes_is_a_timeout(self, transport: Transport) -> None:
        with transport.open(program("stubborn")) as channel:
            channel.timeout = 20
            line_of(channel)
            channel.timeout = 0.2
            with pytest.raises(CommandTimeout):
                channel.write(bytes(16 << 20))

    def test_closing_wakes_a_reader(self, transport: Transport) -> None:
        channel = transport.open(program("hang"))
        channel.timeout = 20
        line_of(channel)
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(channel.read, 1)
            channel.close()
            with pytest.raises(TransportError, match="closed"):
                reading.result(20)

    def test_use_after_close(self, transport: Transport) -> None:
        channel = transport.open(program("hang"))
        channel.close()
        channel.close()
        channel.close_stdin()
        for call in (lambda: channel.read(1), lambda: channel.write(b"x"), lambda: line_of(channel)):
            with pytest.raises(TransportError, match="closed"):
                call()

    def test_connect_and_close_twice(self, transport: Transport) -> None:
        transport.connect()
        assert transport.run(program("leave", "0"), timeout=20).exit_code == 0
        channel = transport.open(program("hang"))
        transport.close()
        transport.close()
        with pytest.raises(TransportError):
            exactly(channel, 100)
        with pytest.raises(TransportError, match="not connected"):
            transport.open(program("leave", "0"))
        transport.connect()
        assert transport.run(program("leave", "0"), timeout=20).exit_code == 0

    @pytest.mark.parametrize("argv", [[], [""], ["a\0b"]])
    def test_what_is_no_command(self, transport: Transport, argv: list[str]) -> None:
        with pytest.raises(TransportError, match="not a command"):
            transport.open(argv)


class ProcessContract(TransportContract):
    """For transports with real processes."""

    def test_a_program_that_does_not_exist(self, transport: Transport) -> None:
        result = transport.run(["/no/such/program"], timeout=20)
        assert result.exit_code == 127
        assert b"/no/such/program" in result.stderr

    def test_processes_start_at_home_in_their_own_session(self, transport: Transport) -> None:
        script = "import os; print(os.getcwd(), os.getsid(0) == os.getpid())"
        result = transport.run([sys.executable, "-I", "-S", "-c", script], timeout=20)
        cwd, leads_session = result.stdout.decode().split()
        assert cwd in (str(Path.home()), pwd.getpwuid(os.getuid()).pw_dir)
        assert leads_session == "True"

    def test_closing_ends_a_process_that_reads_its_stdin(self, transport: Transport) -> None:
        channel = transport.open(program("hang"))
        channel.timeout = 20
        line_of(channel)
        started = time.monotonic()
        channel.close()
        assert time.monotonic() - started < 0.9  # it went by itself, nobody waited for a signal


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
