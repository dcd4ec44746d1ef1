"""What a terminal cannot show, in both command lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(encoding: str, *argv: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *argv], env=env, capture_output=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize(("encoding", "sign"), [("ascii", rb"\xd7"), ("utf-8", "×".encode())])
def test_a_sign_that_the_encoding_lacks_is_escaped(encoding: str, sign: bytes) -> None:
    done = run(encoding, "-m", "orchestrator", "plan", "jobs/finetune_7.1b.yaml")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"data 1 " + sign + b" model" in done.stdout


@pytest.mark.mindspore
def test_a_programs_streams_are_asked_once_for_all() -> None:
    script = """
import model.__main__ as cli
import model.cli.cmd_train
model.cli.cmd_train.run = lambda args: print(chr(0xd7))
raise SystemExit(cli.main(["train", "--config", "none"]))
"""
    done = run("ascii", "-c", script)
    assert (done.returncode, done.stdout) == (0, b"\\xd7\n"), done.stderr
