"""An `env_script` that hangs is a finding about its host, not a host that is gone: both timers run here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.hosts.fleet import fleet_of
from orchestrator.hosts.session import Session
from orchestrator.preflight.checks import run_checks
from orchestrator.preflight.facts import Needs
from orchestrator.preflight.gather import _look, gather
from orchestrator.preflight.report import Level, Report


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

        def call(self, verb: str, **args: Any) -> Any:
            told[verb] = args
            return 0

    needs = Needs(hosts=(Host(name="a", env_script="/opt/env.sh"),), ascend=False)
    session: Session = Here()  # type: ignore[assignment]
    _look(needs, session, 10.0, patience)
    assert told["probe"]["patience"] == patience and told["probe"]["timeout"] >= patience + 30
