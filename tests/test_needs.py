"""What a test needs is read from its imports: compared with what Python imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.conftest import MISSING, WORKER, imported, pytest_xdist_make_scheduler, together

ROOT = Path(__file__).parents[1]
FILES = sorted(Path(__file__).parent.rglob("test_*.py"))


def really(*files: Path) -> set[str]:
    """The packages of the worker extra that a new interpreter has imported after these files."""
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(WORKER) & set(done.stdout.split())


def test_what_is_said_to_need_nothing_of_the_worker_needs_nothing() -> None:
    files = [file for file in FILES if not imported(file) & set(WORKER)]
    assert len(files) > 100
    assert really(*files) == set()


@pytest.mark.skipif(bool(MISSING), reason="the worker extra is not installed")
def test_what_is_said_to_need_mindspore_needs_it() -> None:
    [file, *_] = [file for file in FILES if "mindspore" in imported(file)]
    assert "mindspore" in really(file)


def test_tests_that_share_something_are_run_by_one_process() -> None:
    mindspore = next(file for file in FILES if "mindspore" in imported(file)).relative_to(ROOT)
    assert together(f"{mindspore}::test_it[a::b]") == str(mindspore)
    assert together("tests/preflight/test_twelve_hosts.py::test_it") == "tests/preflight/test_twelve_hosts.py"
    assert together("tests/config/test_job.py::test_it[1]") == "tests/config/test_job.py::test_it[1]"


class Process:
    """One process of pytest-xdist, as its scheduler sees it."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.asked: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.asked += indices

    def shutdown(self) -> None:
        self.shutting_down = True


class ForTwo:
    """What it asks of the configuration."""

    option = SimpleNamespace()

    @staticmethod
    def getvalue(name: str) -> list[str]:
        return {"tx": ["2*popen"]}[name]


def test_one_process_begins_with_the_first_tests_and_the_others_with_the_last() -> None:
    scheduler = pytest_xdist_make_scheduler(cast(pytest.Config, ForTwo()), None)
    first, other = Process("gw0"), Process("gw1")
    names = [f"tests/config/test_job.py::test_it[{number}]" for number in range(9)]
    for process in (first, other):
        scheduler.add_node(process)
        scheduler.add_node_collection(process, names)
    scheduler.schedule()
    done = {first: 0, other: 0}
    while not scheduler.tests_finished:
        for process in (first, other):
            if done[process] < len(process.asked):
                scheduler.mark_test_complete(process, process.asked[done[process]])
                done[process] += 1
    assert first.asked[:3] == [0, 1, 2] and other.asked[:3] == [8, 7, 6]
    assert sorted(first.asked + other.asked) == list(range(9))
