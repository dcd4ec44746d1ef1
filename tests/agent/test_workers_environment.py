"""What the workers' own Python finds, by the agent's look into their environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.agent.cann import MODULES
from orchestrator.agent.host_probe import probe
from orchestrator.agent.system_facts import Seen, in_workers_environment
from orchestrator.core.paths import Workdir
from orchestrator.testing.waiting import eventually


def package(folder: Path, name: str, *files: str) -> None:
    (folder / name).mkdir(parents=True)
    for file in files:
        (folder / name / f"{file}.py").write_text("raise SystemExit('imported')\n")


def look(folder: Path, modules: Sequence[str] = MODULES, script: str = "") -> Seen:
    """With `folder` on the path, by a script as CANN's."""
    path = folder / "set_env.sh"
    path.write_text(f"export PYTHONPATH={folder}:$PYTHONPATH\n{script}\n")
    return in_workers_environment(("pip", "no-such"), str(path), modules=modules)


def test_modules_are_found_and_not_imported(tmp_path: Path) -> None:
    package(tmp_path, "hccl", "__init__", "sys_version")
    package(tmp_path, "te", "__init__")
    package(tmp_path, "tbe", "__init__")
    seen = look(tmp_path)
    assert seen.modules == {
        "hccl.sys_version": str(tmp_path / "hccl/sys_version.py"),
        "te": str(tmp_path / "te/__init__.py"),
        "tbe": str(tmp_path / "tbe/__init__.py"),
    }
    assert seen.trouble == "" and seen.packages["no-such"] is None
    assert seen.environment["PYTHONPATH"].startswith(f"{tmp_path}:")


def test_a_folder_or_a_file_of_that_name_is_no_module(tmp_path: Path) -> None:
    """MindSpore imports `hccl.sys_version`; a clone of HCCL's sources has a folder `hccl`, too."""
    package(tmp_path, "hccl", "__init__")
    package(tmp_path, "te")
    (tmp_path / "tbe").touch()
    assert look(tmp_path).modules == dict.fromkeys(MODULES)
    (tmp_path / "sys_version.py").touch()
    assert look(tmp_path, ("pathlib.sys_version",)).modules == {"pathlib.sys_version": None}


def test_what_lies_in_the_folder_that_we_are_in_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "tbe", "__init__")
    monkeypatch.chdir(tmp_path)
    assert in_workers_environment((), None, modules=("tbe",)).modules == {"tbe": None}


def test_what_python_prints_at_its_start_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('hello', end='')\n")
    assert look(tmp_path).trouble == ""


@pytest.mark.parametrize(
    ("script", "trouble"),
    [
        ("return 3", "ends with exit code 126, without an answer"),
        ("exit 0", "ends with exit code 0, without an answer"),
        ("exec echo '{}'", "ends with exit code 0, without an answer"),
    ],
)
def test_a_script_that_fails_is_not_a_package_that_lacks(tmp_path: Path, script: str, trouble: str) -> None:
    seen = look(tmp_path, script=script)
    assert seen == ({"pip": None, "no-such": None}, dict.fromkeys(MODULES), {}, trouble)


def test_a_script_that_hangs_is_given_up_with_all_that_it_started(tmp_path: Path) -> None:
    script = tmp_path / "set_env.sh"
    script.write_text(f"sleep 1000 &\necho $! > {tmp_path}/pid\nwait\n")
    seen = in_workers_environment((), str(script), patience=1.0)
    assert seen.trouble == "takes more than 1 s"
    state = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    eventually(lambda: not state.exists() or state.read_text().split()[2] == "Z")


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("packages", [(), ("pip",)])
def test_a_script_that_is_no_file_is_not_even_tried(
    tmp_path: Path, kind: str, packages: tuple[str, ...]
) -> None:
    """Whoever opens a pipe waits for its writer; a worker would, too, so that every job is told."""
    script = tmp_path / "set_env.sh"
    os.mkfifo(script) if kind == "pipe" else script.mkdir()
    found = probe(Workdir(tmp_path), packages=packages, env_script=str(script), patience=1.0)
    assert found["environment_trouble"] == "is no regular file"
    assert found["packages"] == dict.fromkeys(packages)
