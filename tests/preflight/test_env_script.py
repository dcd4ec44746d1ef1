"""An `env_script` that hangs is a finding about its host, not a host that is gone: both timers run here."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.agent.host_probe import probe
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.core.paths import Workdir
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import fleet_of
from orchestrator.hosts.scheduling import SYSTEM, SystemScheduling
from orchestrator.preflight.checks import run_checks
from orchestrator.preflight.gather_facts import _look, gather
from orchestrator.preflight.host_facts import Needs
from orchestrator.preflight.report import Level, Report
from orchestrator.testing.standin_facts import host_facts
from tests.preflight.test_checks import ASCEND, bad, facts_of


def look(folder: Path, script: Path) -> Report:
    host = Host(name="a", transport="local", workdir=str(folder / "work"), env_script=str(script))
    needs = Needs(hosts=(host,), packages=("pip",))
    with fleet_of((host,), SshOptions()) as fleet:
        facts, errors = gather(needs, fleet, patience=1.0)
    return run_checks(needs, facts, errors)


@pytest.mark.parametrize("text", ["sleep 75", "while :; do :; done", "cat /dev/zero > /dev/null"])
def test_a_script_that_hangs(tmp_path: Path, text: str) -> None:
    script = tmp_path / "set_env.sh"
    script.write_text(f"{text}\n")
    report = look(tmp_path, script)
    assert report.errors == {} and report.exit_code == 4
    assert [(row.check, row.text) for row in report.rows() if row.level is Level.FAIL] == [
        ("env script", f"env_script {script} takes more than 1 s")
    ]


def test_a_script_that_is_a_pipe(tmp_path: Path) -> None:
    script = tmp_path / "set_env.sh"
    os.mkfifo(script)
    report = look(tmp_path, script)
    assert report.errors == {} and report.exit_code == 4
    assert [(row.check, row.text) for row in report.rows() if row.level is Level.FAIL] == [
        ("env script", f"env_script {script} is no regular file")
    ]


@pytest.mark.parametrize("patience", [1.0, 20.0, 60.0, 300.0])
def test_a_host_is_waited_for_longer_than_its_script(patience: float) -> None:
    """However long that is: whoever gives up first says what was wrong."""
    told: dict[str, Any] = {}

    class Here:
        host = "a"

        def probe(self, **args: Any) -> Any:
            told.update(args)
            return SimpleNamespace(clock=SYSTEM.time())

    needs = Needs(hosts=(Host(name="a", env_script="/opt/env.sh"),), ascend=False)
    agent: Agent = Here()  # type: ignore[assignment]
    _look(needs, needs.hosts[0], (), agent, SYSTEM, timeout=10.0, patience=patience)
    assert told["patience"] == patience and told["timeout"] >= patience + 30


@pytest.mark.parametrize(
    ("takes", "ahead", "asks"),
    [
        (0.4, 0.0, False),
        (0.4, 0.5, False),  # within what is allowed, however the probe's time is to be taken
        (0.4, 7.0, True),
        (0.4, -7.0, True),
        (3.0, 0.0, True),
        (3.0, 1.2, True),  # in so long a probe that could not be seen
    ],
)
def test_a_clock_is_asked_for_where_the_probe_does_not_show_it(
    takes: float, ahead: float, asks: bool
) -> None:
    asked: list[float] = []

    class Clocks(SystemScheduling):
        now = 1e9

        def time(self) -> float:
            return self.now

    clocks = Clocks()

    class Here:
        host = "a"

        def clock(self) -> float:
            asked.append(clocks.now)
            return clocks.now + ahead

        def probe(self, **args: Any) -> Any:
            clocks.now += takes
            return SimpleNamespace(clock=clocks.now - takes / 2 + ahead)

    agent: Agent = Here()  # type: ignore[assignment]
    needs = Needs(hosts=(Host(name="a"),), ascend=False)
    found = _look(needs, needs.hosts[0], (), agent, clocks, timeout=10.0, patience=1.0).clock_ahead
    assert bool(asked) is asks
    assert found == pytest.approx(ahead) if asks else abs(found) <= abs(ahead)


BUFFERS, VISIBLE, CONNECT = "HCCL_BUFFSIZE", "ASCEND_RT_VISIBLE_DEVICES", "HCCL_CONNECT_TIMEOUT"


@pytest.mark.parametrize(
    ("env", "text", "wanted"),
    [
        # What the script unsets is not what the job says: neither judged nor trusted.
        (
            {BUFFERS: "0"},
            f"unset {BUFFERS}",
            [(Level.WARN, f"{BUFFERS} is unset by env_script, not '0' as the job says")],
        ),
        (
            {VISIBLE: "5", CONNECT: "7"},
            f"unset {VISIBLE} {CONNECT}",
            [
                (Level.WARN, f"{VISIBLE} is unset by env_script, not '5' as the job says"),
                (Level.WARN, f"{CONNECT} is unset by env_script, not '7' as the job says"),
            ],
        ),
        # Without the job's, MindSpore's own time holds, which is longer than the job's time for a collective.
        (
            {CONNECT: "200", "HCCL_EXEC_TIMEOUT": "300"},
            f"unset {CONNECT}",
            [
                (Level.FAIL, f"{CONNECT} is not set, so 600 by MindSpore, which is not below"
                 " HCCL_EXEC_TIMEOUT 300"),
                (Level.WARN, f"{CONNECT} is unset by env_script, not '200' as the job says"),
            ],
        ),
        ({BUFFERS: "64"}, f"export {BUFFERS}=64", []),
        ({BUFFERS: "64"}, "", []),
        ({}, f"export {BUFFERS}=0", [(Level.FAIL, f"{BUFFERS} is '0'")]),
        # As long as a variable can be; the kernel takes 32 pages for one.
        (
            {},
            'export HCCL_IF_IP=$(head -c 100000 /dev/zero | tr "\\0" 1)',
            [(Level.FAIL, f"HCCL_IF_IP is '{'1' * 185}...")],
        ),
    ],
)  # fmt: skip
def test_what_the_script_leaves_is_what_holds(
    tmp_path: Path, env: dict[str, str], text: str, wanted: list[tuple[Level, str]]
) -> None:
    script = tmp_path / "set_env.sh"
    script.write_text(f"{text}\n")
    found = probe(Workdir(tmp_path), packages=("pip",), env_script=str(script), env=env)
    said = {key: found[key] for key in ("environment", "environment_seen", "environment_trouble")}
    fact = facts_of(host_facts(0, count=2), **said)
    needs = dataclasses.replace(ASCEND, env=env)
    assert [(level, what) for _, host, level, what in bad(needs, a=fact)] == wanted
