"""`python -m orchestrator.testing cluster`: the stand-in servers that a newcomer starts, and their check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.testing.__main__ import main

pytestmark = pytest.mark.sshd
MODULE = [sys.executable, "-m", "orchestrator.testing"]


@contextmanager
def servers(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    argv = [*MODULE, "cluster", str(folder), *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            said, _ = process.communicate()
    assert process.returncode == 0, said


def orchestrate(*words: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "orchestrator", *map(str, words)]
    return subprocess.run(
        argv, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}, check=False
    )


def test_three_servers_one_of_them_broken(tmp_path: Path) -> None:
    folder = tmp_path / "servers"
    with servers(folder, "--hosts", "3", "--devices", "2", "--link-down", "npu003:1") as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("npu[001-003]: 2 NPUs each, made up")
        inventory = folder / "inventory.yaml"
        assert str(inventory) in process.stdout.readline()
        checked = orchestrate("check", "-i", inventory)
        assert checked.returncode == 4, checked.stderr
        assert checked.stderr == "orchestrate: looking at 3 hosts ...\n"
        lines = checked.stdout.splitlines()
        assert len(lines) < 24 and max(map(len, lines)) <= 80
        assert any(
            line.startswith("link ") and "npu003  FAIL  device 1: link is DOWN" in line for line in lines
        )
        assert lines[-1].startswith("3 hosts: ") and "FAIL on npu003" in lines[-1]
        data = json.loads(orchestrate("check", "-i", inventory, "--json").stdout)
        assert data["summary"]["failures"][0]["hosts"] == "npu003"
    again = folder / "hosts"
    again.mkdir(exist_ok=True)
    with servers(folder, "--hosts", "1") as process:  # in the same folder, once the first have gone
        assert process.stdout is not None and process.stdout.readline().startswith("npu001: 8 NPUs")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hosts", "0"], "--hosts: from 1 to 200"),
        (["--devices", "99"], "--devices: from 1 to 16"),
        (["--link-down", "npu099:1"], "no device of npu[001-012]"),
        (["--link-down", "npu001"], "no device of npu[001-012]"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", str(tmp_path / "servers"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "servers").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "machines").mkdir()
    assert main(["cluster", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (tmp_path / "machines").is_dir()
