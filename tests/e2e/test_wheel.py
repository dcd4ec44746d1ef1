"""The wheel alone, in venvs without these sources: light for a control node, and with the worker extra."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from orchestrator import __version__
from orchestrator.testing.waiting import eventually

ROOT = Path(__file__).parents[2]
SOURCES = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "constraints-light.txt")
PACKAGES = ("orchestrator", "model")
JOBS = ("jobs/demo.yaml", "jobs/command.yaml", "jobs/data/demo.json")
# What a venv is about is not to be found by way of the checkout, nor is a person's own configuration.
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(
    *words: str | Path, cwd: Path, env: Mapping[str, str] = ENV, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    argv = [str(word) for word in words]
    return subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout)


def ok(*words: str | Path, cwd: Path, timeout: float = 120) -> str:
    done = run(*words, cwd=cwd, timeout=timeout)
    assert done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make dist` makes, of a copy of the sources: the sdist, and the wheel that is built from it."""
    copy = tmp_path_factory.mktemp("source")
    ok("cp", "-r", *(ROOT / name for name in (*SOURCES, *PACKAGES, "jobs")), copy, cwd=copy)
    ok(sys.executable, "-m", "build", "--no-isolation", cwd=copy)
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [path] = dist.glob("*.whl")
    assert path.name == f"orchestrate-{__version__}-py3-none-any.whl"
    return path


def test_the_wheel_holds_every_file_of_both_packages(wheel: Path) -> None:
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert there == {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_sdist_holds_what_the_documents_speak_of(dist: Path) -> None:
    [path] = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    assert there >= {*SOURCES, *JOBS}


def pip_of(folder: Path) -> tuple[str | Path, ...]:
    """The command line of a pip that works on a new venv; its own would take longer to put there."""
    venv.create(folder)
    python = folder / "bin/python"
    return sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet"


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the wheel and the versions of constraints-light.txt, as README tells to make it."""
    folder = tmp_path_factory.mktemp("light")
    pip = pip_of(folder)
    words = ("install", "--require-hashes", "--requirement", ROOT / "constraints-light.txt", "--no-compile")
    done = run(*pip, *words, cwd=folder, timeout=300)
    if done.returncode and "Could not find a version" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    ok(*pip, "install", "--no-index", wheel, cwd=folder)
    ok(*pip, "check", cwd=folder)
    return folder


def test_a_light_install_does_all_but_the_workers_part(light: Path, tmp_path: Path) -> None:
    python, orchestrate = light / "bin/python", light / "bin/orchestrate"
    probe = "import importlib.util as u; print([m for m in ('mindspore', 'tokenizers') if u.find_spec(m)])"
    assert ok(python, "-c", probe, cwd=tmp_path).strip() == "[]"
    inventory = tmp_path / "inventory.yaml"
    hosts = {"transport": "local", "defaults": {"workdir": f"{tmp_path}/hosts/{{name}}", "devices": "0-1"}}
    inventory.write_text(yaml.safe_dump({**hosts, "hosts": [{"name": "a"}, {"name": "b"}]}))
    env = {**ENV, "XDG_STATE_HOME": str(tmp_path / "state")}

    def cli(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return run(orchestrate, *words, cwd=tmp_path, env=env)

    assert cli("--version").stdout.split()[-1] == __version__
    for words in (["--help"], ["check", "--help"], ["plan", ROOT / "jobs/demo.yaml"]):
        assert cli(*words).returncode == 0, words
    demo = cli("launch", ROOT / "jobs/demo.yaml", "--dry-run")
    assert demo.returncode == 0, demo.stderr
    assert "code/" in demo.stdout and "model" in demo.stdout
    refused = cli("launch", ROOT / "jobs/demo.yaml")
    assert refused.returncode == 4 and "mindspore is not installed" in refused.stderr, refused
    launched = cli("launch", ROOT / "jobs/command.yaml", "--detach")
    assert launched.returncode == 0, launched.stderr
    eventually(lambda: "succeeded" in cli("runs").stdout, what="the end of the run")
    assert cli("logs", "--rank", "3").stdout == "[rank 3] rank 3 of 4\n"


WORKER = """
import importlib, pkgutil
import model
for module in pkgutil.walk_packages(model.__path__, "model."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(model.__file__)
"""


@pytest.mark.mindspore
def test_with_the_worker_extra_the_model_is_there(wheel: Path, tmp_path: Path) -> None:
    """MindSpore is a gigabyte: the venv borrows what the tests have, and pip judges whether that will do."""
    folder = tmp_path / "venv"
    pip = pip_of(folder)
    ok(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    extra = f"orchestrate[worker] @ {wheel.as_uri()}"
    ok(*pip, "install", "--no-index", "--dry-run", extra, cwd=tmp_path)
    # A requirement that is nowhere would have been refused.
    assert run(*pip, "install", "--no-index", "--dry-run", "mindspore>=99", cwd=tmp_path).returncode == 1
    python = folder / "bin/python"
    where = ok(python, "-c", WORKER, cwd=tmp_path).split()[-1]
    assert Path(where).is_relative_to(folder)
    assert "generate" in ok(python, "-m", "model", "--help", cwd=tmp_path)
