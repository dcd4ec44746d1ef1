"""`orchestrate check` as a person types it: what is read before a host is asked, and what is said when."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import api
from orchestrator.cli.cmd_check import command
from orchestrator.core.errors import ConfigError, OrchestrateError, UsageError

HOSTS = "transport: local\ndefaults: {{devices: 0-1, workdir: '{folder}/{{name}}'}}\nhosts: [{{name: a}}]\n"
JOB = "name: c\ntask: command\ndevices_per_host: 2\ncommand: [hostname]\nnetworking: {mode: none}\n"


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.yaml"
    path.write_text(HOSTS.format(folder=tmp_path / "work"))
    return path


def refused(*words: object) -> tuple[str, OrchestrateError]:
    done = CliRunner().invoke(command, [str(word) for word in words], standalone_mode=False)
    assert isinstance(done.exception, OrchestrateError), done.exception
    return done.stderr, done.exception


def test_nothing_is_said_of_hosts_before_the_files_have_been_read(tmp_path: Path, hosts: Path) -> None:
    said, error = refused("-i", tmp_path / "none.yaml")
    assert said == "" and "no such file" in str(error)
    (tmp_path / "job.yaml").write_text(JOB.replace("devices_per_host: 2", "devices_per_host: 8"))
    said, error = refused("-i", hosts, "--job", tmp_path / "job.yaml")
    assert said == "" and isinstance(error, ConfigError)


def test_values_of_the_job_are_set_as_for_a_launch(tmp_path: Path, hosts: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    _, error = refused("-i", hosts, "--job", tmp_path / "job.yaml", "--set", "devices_per_host=8")
    assert "devices_per_host" in str(error)
    asked: list[int] = []
    given = {"devices_per_host": 1}
    report = api.check(hosts, tmp_path / "job.yaml", given, begun=asked.append)
    assert asked == [1] and report.exit_code == 0


def test_set_without_a_job_has_nothing_to_change(hosts: Path) -> None:
    _, error = refused("-i", hosts, "--set", "devices_per_host=8")
    assert isinstance(error, UsageError) and "--job" in error.remedy


def test_the_data_begin_with_a_summary(hosts: Path) -> None:
    env = {**os.environ, "COLUMNS": "80"}
    argv = [sys.executable, "-m", "orchestrator", "check", "-i", str(hosts), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=True)
    assert done.stderr == ""
    data = json.loads(done.stdout)
    assert list(data) == ["exit_code", "summary", "checks"]
    assert data["summary"]["hosts"] == 1 and data["summary"]["failures"] == []
    assert "write access" in data["summary"]["ok"] and data["summary"]["skipped"]["paths"] == "no --job"
