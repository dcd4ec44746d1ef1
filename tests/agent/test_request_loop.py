"""The protocol from the agent's end: bytes in, bytes out, and nothing that outlives it by accident."""

from __future__ import annotations

import fcntl
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.processes import is_alive
from orchestrator.agent.request_loop import serve
from orchestrator.core.codec import to_json
from orchestrator.core.protocol import BEAT, BEAT_SECONDS, SILENCE_SECONDS
from orchestrator.testing.agent_host import RUN, AgentHost, sh

AGENT = (
    sys.executable,
    "-c",
    "import sys; from orchestrator.agent.request_loop import main; main(sys.argv[1])",
)


def request(verb: str, payload: bytes = b"", **args: Any) -> bytes:
    return json.dumps({"verb": verb, "args": args, "bytes": len(payload)}).encode() + b"\n" + payload


def answers(data: bytes) -> Iterator[Any]:
    """The headers of a session's answers, for answers without bytes."""
    return (json.loads(line) for line in data.splitlines())


def test_requests_are_answered_in_order_and_unread_bytes_are_skipped(tmp_path: Path) -> None:
    asked = (
        request("nonsense", b"x" * 100_000)
        + request("status", run_id="none")
        + request("missing", hashes=["a"])
    )
    done = subprocess.run([*AGENT, str(tmp_path)], input=asked, capture_output=True, timeout=60)
    first, second, third = answers(done.stdout)
    assert first["error"]["kind"] == "unknown_verb"
    assert second["error"]["kind"] == "no_run"
    assert third == {"ok": True, "result": ["a"], "bytes": 0, "more": False}
    assert done.returncode == 0


@pytest.mark.parametrize("verb", ["push", "prepare", "start", "undo", "status", "read_log", "index", "probe"])
def test_missing_and_wrong_arguments_are_refused_in_words(tmp_path: Path, verb: str) -> None:
    asked = request(verb, b"[]", no_such_argument=1) + request("missing", hashes=[])
    done = subprocess.run([*AGENT, str(tmp_path)], input=asked, capture_output=True, timeout=60)
    refusal, after = answers(done.stdout)
    assert refusal["error"]["kind"] == "internal" and verb in refusal["error"]["what"]
    assert after["ok"]


@pytest.mark.parametrize("line", [b"hello\n", b"[1]\n", b'{"verb": "probe", "bytes": "x"}\n'])
def test_what_is_no_request_ends_the_session_in_one_line(tmp_path: Path, line: bytes) -> None:
    done = subprocess.run([*AGENT, str(tmp_path)], input=line, capture_output=True, timeout=60)
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr.startswith(b"not a request: ") and done.stderr.count(b"\n") == 1


def test_a_supervisor_keeps_none_of_the_sessions_descriptors(host: AgentHost) -> None:
    bundle = {"manifest": to_json(host.manifest(sh("sleep 300"))), "worker_config": "", "rank_table": None}
    asked = request("prepare", json.dumps(bundle).encode()) + request("start", run_id=RUN)
    read, write = os.pipe()
    # One more, with the highest number there may be: a bound on what is closed would miss it.
    top = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16) - 1
    high = fcntl.fcntl(write, fcntl.F_DUPFD, top)
    os.close(write)
    # communicate() returns when nobody holds stdout and stderr any more: what sshd waits for, too.
    with subprocess.Popen(
        [*AGENT, str(host.workdir.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[high],
    ) as agent:
        os.close(high)
        stdout, stderr = agent.communicate(asked, timeout=60)
    assert all(answer["ok"] for answer in answers(stdout)), stderr
    assert os.read(read, 1) == b""
    os.close(read)
    status = host.status()
    assert is_alive(status.supervisor) and is_alive(status.guardian)


def test_a_supervisor_that_cannot_start_answers_once(host: AgentHost) -> None:
    # The fork that becomes the supervisor must never answer in the session's place.
    bundle = {"manifest": to_json(host.manifest(sh("true"), lock_dir="/proc/none")), "worker_config": ""}
    payload = json.dumps({**bundle, "rank_table": None}).encode()
    asked = request("prepare", payload) + request("missing", hashes=[])
    done = subprocess.run([*AGENT, str(host.workdir.root)], input=asked, capture_output=True, timeout=60)
    refusal, after = answers(done.stdout)
    assert refusal["error"]["what"].startswith("cannot lock the devices: ")
    assert after["ok"] and not host.run_dir().root.exists()


def test_an_agent_that_hears_nothing_ends_by_itself(tmp_path: Path) -> None:
    """Its connection died and nobody told it: the end of stdin never comes."""
    short = (
        "import sys; from _signal import alarm; from orchestrator.agent.request_loop import serve; "
        "serve(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer, lambda seconds: alarm(seconds and 1))"
    )
    argv = [sys.executable, "-c", short, str(tmp_path)]
    half = request("push", b"x" * 10)[:-5]  # gone in the middle of what it sent
    for said in (b"", request("missing", hashes=[]), half):
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            process.stdin.write(said)
            process.stdin.flush()
            assert process.wait(60) == -signal.SIGALRM


def test_the_time_runs_only_while_the_peer_is_waited_for(tmp_path: Path) -> None:
    said = io.BytesIO(BEAT + request("missing", b"more", hashes=["a"]) + BEAT)
    heard, alarms = io.BytesIO(), []
    serve(str(tmp_path), said, heard, alarms.append)  # type: ignore[arg-type]
    assert [answer["result"] for answer in answers(heard.getvalue())] == [["a"]]
    assert set(alarms) == {0, SILENCE_SECONDS} and alarms[::2] == [SILENCE_SECONDS] * (len(alarms) // 2)
    assert alarms[-1] == 0 and SILENCE_SECONDS >= 5 * BEAT_SECONDS


def test_the_real_one_has_such_an_alarm(tmp_path: Path) -> None:
    """SIGALRM is what ends it, and it is neither blocked nor caught."""
    with subprocess.Popen([*AGENT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(request("missing", hashes=[]))
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGALRM)
        assert process.wait(60) == -signal.SIGALRM
