"""`orchestrate model`: our model, whatever folder it is called from, and what a missing one needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(folder: Path, *words: str, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command as it is installed: the folder that it is called from is on the path of no one."""
    path = [str(entry) for entry in (first, ROOT) if entry is not None]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    boot = "import sys; sys.path.remove(''); from orchestrator.cli.main import main; main()"
    argv = [sys.executable, "-c", boot, *words]
    return subprocess.run(argv, env=env, cwd=folder, capture_output=True, text=True, timeout=60)


def test_a_folder_model_of_the_users_does_not_hide_ours(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/__init__.py").write_text("raise SystemExit('the wrong one')\n")
    done = run(tmp_path, "model", "--help", first=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: orchestrate model ")
    verb = run(tmp_path, "model", "generate", "--checkpoint", "no.ckpt", "--prompt", "hello")
    assert (verb.returncode, verb.stderr) == (2, "error: no.ckpt: there is no such checkpoint file\n")


def test_an_option_that_a_verb_lacks_is_answered_with_its_own(tmp_path: Path) -> None:
    """`model generate --template` printed the list of all verbs, and none of the options of this one."""
    done = run(tmp_path, "model", "generate", "--checkpoint", "a.ckpt", "--prompt", "hello", "--templat", "x")
    assert done.returncode == 2 and "usage: orchestrate model generate " in done.stderr
    assert "--max-new-tokens" in done.stderr and "unrecognized arguments: --templat x" in done.stderr


def test_what_a_worker_needs_and_is_not_there_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['mindspore'] = None\n")
    (tmp_path / "whole.ckpt").write_bytes(b"")
    words = ("model", "generate", "--checkpoint", "whole.ckpt", "--prompt", "hello")
    done = run(tmp_path, *words, first=tmp_path)
    remedy = f"error: mindspore is not installed in {sys.executable} (pip install 'orchestrate[worker]')\n"
    assert (done.returncode, done.stderr) == (2, remedy)
