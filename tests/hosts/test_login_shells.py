"""Agents on accounts with any login shell, and with start-up files that put another one in its place."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from orchestrator.core.errors import CommandTimeout, PreflightError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.boot import agent_argv, agent_bundle
from orchestrator.hosts.local_transport import LocalTransport
from orchestrator.hosts.session import Session
from orchestrator.hosts.transport import Channel, command_line

SHELLS = ("sh", "bash", "zsh", "tcsh", "csh", "fish")


def shell(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


class LoginShell(LocalTransport):
    """Runs commands as sshd does: by the account's shell, in one string; `before` is its start-up file."""

    def __init__(self, shell: str, before: str = "") -> None:
        super().__init__("far")
        self._shell = shell
        self._before = before

    def _open(self, argv: tuple[str, ...]) -> Channel:
        command = command_line(argv).decode()
        return super()._open((self._shell, "-c", f"{self._before}\n{command}" if self._before else command))


def agent_over(transport: LocalTransport, workdir: Path, timeout: float = 20.0, quiet: float = 5.0) -> Agent:
    transport.connect()
    return Agent(
        Session(
            transport,
            python=sys.executable,
            workdir=str(workdir),
            bundle=agent_bundle(),
            timeout=timeout,
            quiet=quiet,
        )
    )


def test_a_command_line_that_no_shell_minds() -> None:
    line = command_line(agent_argv("/opt/python 3/bin/python3")).decode()
    program = line[line.index("-c '") + 4 : -1]
    assert line.endswith("'") and not re.search(r"['!\\`$\n]", program)


@pytest.mark.parametrize("name", SHELLS)
def test_a_login_shell(name: str, tmp_path: Path) -> None:
    agent = agent_over(LoginShell(shell(name)), tmp_path)
    assert agent.missing([]) == []
    agent.close()


@pytest.mark.parametrize("name", ("sh", "bash", "zsh", "tcsh"))
def test_a_start_up_file_that_execs_another_shell(name: str, tmp_path: Path) -> None:
    """Which takes its commands from stdin; sh (dash) and tcsh read ahead of the line."""
    agent = agent_over(LoginShell("/bin/sh", f"exec {shell(name)}"), tmp_path, quiet=1.0)
    assert agent.missing([]) == []
    agent.close()


def test_a_start_up_file_that_execs_a_shell_which_waits_for_the_end_of_its_input(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="start another shell, which does not run commands"):
        agent_over(LoginShell("/bin/sh", f"echo Welcome; cat | {shell('fish')}; exit"), tmp_path, quiet=1.0)


def test_a_start_up_file_that_execs_a_shell_which_reads_no_commands_of_a_socket(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"the host says: .*Unable to read input file"):
        agent_over(LoginShell("/bin/sh", f"exec {shell('fish')}"), tmp_path)


def test_a_start_up_file_that_asks_and_prints(tmp_path: Path) -> None:
    noisy = "echo Welcome to npu01; printf '\\033[2J> '; read answer; echo thanks >&2"
    agent = agent_over(LoginShell("/bin/sh", noisy), tmp_path)
    assert agent.missing([]) == []
    agent.close()


def test_what_a_forced_command_says_is_shown(tmp_path: Path) -> None:
    forced = "echo 'Only for backups.'; printf '\\033[31mask \\007ops\\n'; exit 3"
    with pytest.raises(PreflightError) as caught:
        agent_over(LoginShell("/bin/sh", forced), tmp_path)
    text = str(caught.value)
    assert "Only for backups. / " in text and "ask" in text and "ops" in text
    assert text.isprintable()


def test_what_a_host_says_that_never_starts_an_agent_is_shown(tmp_path: Path) -> None:
    with pytest.raises(CommandTimeout, match=r"no agent within 0\.5 s; the host says: Choose a project:$"):
        agent_over(LoginShell("/bin/sh", "printf 'Choose a project: '; sleep 60"), tmp_path, timeout=0.5)
