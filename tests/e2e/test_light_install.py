"""The control node's install is light: everything but the workers works where MindSpore is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.testing.waiting import eventually

ROOT = Path(__file__).parents[2]
SOURCES = ("orchestrator", "model", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "constraints.txt")


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with nothing but the plain install, made from a copy of the sources."""
    folder = tmp_path_factory.mktemp("light")
    copy = folder / "source"
    copy.mkdir()
    for name in SOURCES:
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv/bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--constraint", "constraints.txt", "."], cwd=copy, capture_output=True, text=True, timeout=300
    )
    if done.returncode and "Could not find a version" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    return folder / "venv"


def test_the_main_verbs_work_without_mindspore(venv: Path, tmp_path: Path) -> None:
    python, orchestrate = venv / "bin/python", venv / "bin/orchestrate"
    probe = "import importlib.util as u; print([m for m in ('mindspore', 'tokenizers') if u.find_spec(m)])"
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    env.pop("PYTHONPATH", None)

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        argv = [str(word) for word in words]
        return subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert run(python, "-c", probe).stdout.strip() == "[]"
    inventory = tmp_path / "inventory.yaml"
    hosts = {"transport": "local", "defaults": {"workdir": f"{tmp_path}/hosts/{{name}}", "devices": "0-1"}}
    inventory.write_text(yaml.safe_dump({**hosts, "hosts": [{"name": "a"}, {"name": "b"}]}))
    assert "launch" in run(orchestrate, "--help").stdout
    demo = run(orchestrate, "launch", ROOT / "jobs/demo.yaml", "--dry-run")
    assert demo.returncode == 0, demo.stderr
    assert "code/" in demo.stdout and "model" in demo.stdout
    refused = run(orchestrate, "launch", ROOT / "jobs/demo.yaml")
    assert refused.returncode == 4 and "mindspore is not installed" in refused.stderr, refused
    launched = run(orchestrate, "launch", ROOT / "jobs/command.yaml", "--detach")
    assert launched.returncode == 0, launched.stderr
    eventually(lambda: "succeeded" in run(orchestrate, "runs").stdout, what="the end of the run")
    assert run(orchestrate, "logs", "--rank", "3").stdout == "[rank 3] rank 3 of 4\n"
