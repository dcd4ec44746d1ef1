"""Sessions whose agent, connection or host misbehaves: every time one error of ours, never a hang."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from orchestrator.core.errors import AnswerError, PreflightError, TransportError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.agent_zip import agent_bundle
from orchestrator.hosts.conversation import Limits
from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.session import Session
from orchestrator.hosts.transport import Transport
from tests.hosts.scripted_transport import Program, ScriptedTransport
from tests.old_pythons import python_of

READY = b"orchestrate-agent ready\n"


@pytest.fixture
def local() -> Iterator[LocalTransport]:
    with LocalTransport("here") as transport:
        yield transport  # type: ignore[misc]


def session_of(transport: Transport, workdir: Path, python: str = sys.executable) -> Session:
    return Session(transport, python=python, workdir=str(workdir), bundle=agent_bundle(), timeout=10.0)


def start(transport: Transport, workdir: Path, python: str = sys.executable) -> Agent:
    return Agent(session_of(transport, workdir, python))


def saying(*after_ready: bytes, boot: bytes = READY) -> ScriptedTransport:
    """A host whose agent answers every request with the next of these texts, and ends after the last."""

    def program(argv: list[str], stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> int:
        for _ in ("for a shell", "the program", "what it is asked"):
            stdin.readline()
        stdout.write(boot)
        for text in after_ready:
            stdin.readline()
            stdout.write(text)
        stderr.write(b"first line\nlast words\n")
        return 1

    transport = ScriptedTransport("far", program)
    transport.connect()
    return transport


def host_script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_noise_without_a_newline_is_no_harm(local: LocalTransport, tmp_path: Path) -> None:
    python = host_script(tmp_path, f"printf 'motd> '; exec {sys.executable} \"$@\"")
    assert start(local, tmp_path / "work", python).missing([]) == []


def test_endless_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="more than 200 lines before the agent"):
        start(saying(boot=b"noise\n" * 300), tmp_path)


def test_no_python_at_all(local: LocalTransport, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="no Python at `/no/such/python`"):
        start(local, tmp_path, "/no/such/python")


def test_a_real_old_python_says_so_itself(local: LocalTransport, tmp_path: Path) -> None:
    python = python_of("3.7") or python_of("3.6")
    if python is None:
        pytest.skip("no old Python on this machine")
    with pytest.raises(PreflightError, match=r"Python 3\.[67]\.\d+ is too old"):
        start(local, tmp_path, python)


def test_an_agent_that_is_damaged_on_the_host_is_sent_again(local: LocalTransport, tmp_path: Path) -> None:
    start(local, tmp_path).close()
    [agent] = (tmp_path / "agent").glob("*.pyz")
    agent.write_bytes(agent.read_bytes()[:1000])
    assert start(local, tmp_path).missing([]) == []
    assert agent.read_bytes() == agent_bundle().data


@pytest.mark.skipif(sys.version_info < (3, 10), reason="compiled modules are kept from Python 3.10 on")
def test_a_compiled_module_that_is_damaged_is_compiled_again(local: LocalTransport, tmp_path: Path) -> None:
    start(local, tmp_path).close()
    [cache] = [path for path in (tmp_path / "agent").iterdir() if path.is_dir()]
    modules = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert "orchestrator.agent.request_loop" in modules
    (cache / "orchestrator.agent.request_loop").write_bytes(modules["orchestrator.agent.request_loop"][:-100])
    (cache / "orchestrator.agent.request_loop").write_bytes(b"")
    assert start(local, tmp_path).missing([]) == []
    assert {path.name for path in cache.iterdir()} > modules.keys()
    assert len((cache / "orchestrator.agent.request_loop").read_bytes()) > 100


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workdir_without_write_access(local: LocalTransport, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PreflightError, match="Permission denied"):
        start(local, tmp_path / "work")


def test_a_workdir_that_cannot_be_written_to(local: LocalTransport) -> None:
    with pytest.raises(PreflightError, match="cannot use the workdir: /proc/work/agent: ") as caught:
        start(local, Path("/proc/work"))
    assert caught.value.exit_code == 4 and "workdir:" in caught.value.remedy


def test_an_agent_that_is_killed_between_two_calls(local: LocalTransport, tmp_path: Path) -> None:
    agent = start(local, tmp_path)
    os.kill(agent.probe().pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(TransportError) as caught:
            agent.missing([])
        assert caught.value.where == "here"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "the agent has ended: last words"),
        (b'{"ok": tr', "ended in the middle of an answer: last words"),
        (b'{"id": 1, "ok": true, "result": 1, "bytes": 9}\nabc', "ended in the middle of an answer"),
        (b"Segmentation fault\n", "sent something that is no answer"),
        (b"[1, 2]\n", "sent something that is no answer"),
        (b'{"neither": 1}\n', "answered another question"),
        (b'{"id": 1, "ok": 1}\n', "sent something that is no answer"),
        (b'{"id": 1, "ok": false}\n', "refused without a reason"),
    ],
)
def test_an_agent_that_breaks_off(tmp_path: Path, answer: bytes, says: str) -> None:
    session = session_of(saying(answer), tmp_path)
    with pytest.raises(TransportError, match=says) as caught:
        list(session.stream("status", {}, Limits(data=9)))
    assert isinstance(caught.value, AnswerError) == ("ended" not in says)


def test_a_connection_that_breaks_in_the_middle_of_a_call(tmp_path: Path) -> None:
    def program(argv: list[str], stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> int:
        stdin.readline()
        stdout.write(READY)
        stdin.readline()
        transport.break_connection()
        return 0

    hangs_up: Program = program
    transport = ScriptedTransport("far", hangs_up)
    transport.connect()
    with pytest.raises(TransportError, match="the connection broke"):
        start(transport, tmp_path).clock()


def test_answers_that_nobody_took_are_not_given_to_the_next_request(tmp_path: Path) -> None:
    some = b'{"id": %d, "ok": true, "result": %d, "bytes": 0, "more": true}\n'
    session = session_of(saying(some % (1, 1) + some % (1, 2), some % (2, 3)), tmp_path)
    answers = session.stream("read_segments", {}, Limits(answers=9))
    assert next(answers) == (1, b"")
    answers.close()  # type: ignore[attr-defined]
    with pytest.raises(TransportError):
        next(session.stream("status", {}, Limits()))


def test_the_last_answer_of_a_stream_need_not_be_followed_by_the_end(tmp_path: Path) -> None:
    last = b'{"id": %d, "ok": true, "result": %d, "bytes": 0, "more": false}\n'
    session = session_of(saying(last % (1, 1), last % (2, 2)), tmp_path)
    answers = session.stream("status", {}, Limits())
    assert next(answers) == (1, b"")
    answers.close()  # type: ignore[attr-defined]
    assert list(session.stream("status", {}, Limits())) == [(2, b"")]
