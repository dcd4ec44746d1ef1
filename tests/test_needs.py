"""What a test needs is read from its imports: compared with what Python imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MISSING, WORKER, imported, together

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
