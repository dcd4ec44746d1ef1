"""The agent asks the host's tools: real processes, each with its own time limit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.ascend_tools import ask_tools, read_text
from orchestrator.core.errors import AgentError
from orchestrator.testing.waiting import eventually

Tool = Callable[..., Path]
LINK = ["hccn_tool", "-i", "0", "-link", "-g"]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Puts a shell script in the place of a tool, first on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def make(script: str, name: str = "hccn_tool", mode: int = 0o755) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(mode)
        return path

    return make


def links(count: int) -> list[list[str]]:
    return [["hccn_tool", "-i", str(device), "-link", "-g"] for device in range(count)]


def ask(calls: list[list[str]], timeout: float = 20.0, parallel: int = 8) -> list[dict[str, Any]]:
    return ask_tools(calls, timeout=timeout, parallel=parallel)


def test_answers_come_in_the_order_of_the_calls(tool: Tool) -> None:
    tool('[ "$2" = 0 ] && sleep 0.1; echo "$*"; [ "$2" != 2 ]')
    assert ask(links(4), parallel=2) == [
        {"text": f"-i {device} -link -g\n", "exit_code": int(device == 2), "failure": ""}
        for device in range(4)
    ]


def test_a_call_that_hangs_is_killed_and_its_device_left_alone(tool: Tool, tmp_path: Path) -> None:
    tool(f'echo half; [ "$2" = 1 ] && {{ echo $$ >> {tmp_path}/pids; sleep 60; }}; echo whole')
    calls = [*links(2), ["hccn_tool", "-i", "1", "-ip", "-g"], ["hccn_tool", "-i", "0", "-ip", "-g"]]
    started = time.monotonic()
    answers = ask(calls, timeout=0.4, parallel=1)
    assert time.monotonic() - started < 10
    assert [answer["failure"] for answer in answers] == ["", "timeout", "skipped", ""]
    assert answers[1]["text"] == "half\n"
    (pid,) = (tmp_path / "pids").read_text().split()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_one_that_hangs_does_not_hold_up_the_others(tool: Tool) -> None:
    tool('[ "$2" = 0 ] && exec sleep 60; echo done')
    assert [answer["failure"] for answer in ask(links(8), timeout=0.5)] == ["timeout", *[""] * 7]


def test_a_broken_pipe_ends_a_tool_though_python_ignores_that_signal(tool: Tool) -> None:
    tool("kill -PIPE $$; echo survived")
    assert ask([LINK]) == [{"text": "", "exit_code": -signal.SIGPIPE, "failure": ""}]


def test_endless_output_is_cut_off(tool: Tool) -> None:
    tool("exec yes")
    (answer,) = ask([LINK])
    assert answer["failure"] == "flood"
    assert len(answer["text"]) <= 1 << 18


def test_a_tool_that_is_not_there_or_not_ours_to_run(tool: Tool) -> None:
    (missing,) = ask([["npu-smi", "info"]])
    assert missing == {"text": "", "exit_code": None, "failure": "missing"}
    tool("echo never", mode=0o644)
    (denied,) = ask([LINK])
    assert denied["failure"] == "denied"


def test_a_busy_tool_is_asked_again(tool: Tool, tmp_path: Path) -> None:
    script = f'[ -e {tmp_path}/seen ] && echo "link status: UP" && exit; touch {tmp_path}/seen'
    tool(script + '; echo "hccn_tool is busy, please try again."; exit 1')
    (answer,) = ask([LINK])
    assert (answer["text"], answer["exit_code"]) == ("link status: UP\n", 0)


def test_a_tool_that_stays_busy_is_given_up(tool: Tool) -> None:
    tool('echo "hccn_tool is busy, please try again."; exit 1')
    (answer,) = ask([LINK])
    assert "busy" in answer["text"]


def test_words_in_another_language_and_bytes_that_are_no_text(tool: Tool) -> None:
    tool("printf 'LANG=%s \\377\\n' \"$LC_ALL\"")
    assert ask([LINK])[0]["text"] == "LANG=C \ufffd\n"


@pytest.mark.parametrize(
    "call",
    [
        [],
        ["reboot"],
        ["hccn_tool", "-i", "0", "-ip", "-s", "address", "1.2.3.4"],
        ["hccn_tool", "-i", "0", "-cfg", "recovery"],
        ["hccn_tool", "-i", "0", "-ping", "-g", "address", "1.2.3.4; reboot"],
        ["hccn_tool", "-i 0", "-link", "-g"],
        ["npu-smi", "set", "-t", "reset", "-i", "0"],
    ],
)
def test_only_questions_are_asked(call: list[str]) -> None:
    with pytest.raises(AgentError, match="is no question to an Ascend tool"):
        ask([call])


@pytest.mark.parametrize(
    "call",
    [
        "hccn_tool -i 3 -ping -g address 29.1.137.205",
        "hccn_tool -i 15 -hccs_ping -g address fd00::1",
        "hccn_tool -i 0 -ip -inet6 -g",
        "npu-smi info -m",
        "npu-smi info -i 0 -c 0 -t health",
        "npu-smi info -i 0 -t board",
        "npu-smi info -t spod-info -i 0 -c 1",
    ],
)
def test_questions(call: str) -> None:
    assert ask([call.split()])[0]["failure"] == "missing"


def test_small_files(tmp_path: Path) -> None:
    (tmp_path / "hccn.conf").write_bytes(b"address_0=1.2.3.4\r\n")
    assert read_text(str(tmp_path / "hccn.conf"))["text"] == "address_0=1.2.3.4\r\n"
    assert read_text(str(tmp_path / "none"))["failure"] == "missing"
    assert read_text(str(tmp_path))["failure"] == "Is a directory"
