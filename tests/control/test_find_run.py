"""Which run is meant: by name, by the name of a job, or by none, where some are active and some not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.control.run_record import HostView, RunRecord, write_record
from orchestrator.control.runs import find_run, is_active
from orchestrator.core.errors import RunNotFound
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import HostStatus
from orchestrator.core.states import RunState


class Runs:
    """A state directory with runs, each newer than the one before."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0

    def add(self, job: str, state: RunState, *, started: bool = True) -> str:
        self._count += 1
        name = f"{job}-20261126-2105{self._count:02d}-ab{self._count:02d}"
        control = ControlDir(self.root / "runs" / name)
        control.make(1)
        control.plan.write_text("{}")
        os.utime(control.plan, (self._count, self._count))
        view = HostView(HostStatus(name, job, "h", 0.0, ())) if started else HostView()
        write_record(control, RunRecord(name, job, "train", 1, 0.0, state, hosts={"h": view}))
        return name

    def find(self, name: str | None = None, *, started: bool = False, newest: bool = False) -> str:
        return find_run(name, self.root, started=started, newest=newest).run_id


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_without_a_name_the_active_run_is_meant_and_not_the_newest(runs: Runs) -> None:
    """`stop` hit a newer run that had never started, and said nothing of the one at work."""
    active = runs.add("train", RunState.RUNNING)
    runs.add("train", RunState.FAILED)
    assert runs.find() == active


def test_what_is_read_is_of_a_run_that_started_and_not_of_a_launch_that_was_refused(runs: Runs) -> None:
    older, real = (runs.add("train", RunState.SUCCEEDED) for _ in range(2))
    refused = runs.add("train", RunState.FAILED, started=False)
    assert (runs.find(), runs.find(started=True)) == (refused, real)
    other = runs.add("ask", RunState.SUCCEEDED)
    runs.add("ask", RunState.FAILED, started=False)
    assert runs.find("ask", started=True) == other
    for found in ({"name": "ask"}, {"name": "train", "started": True}):
        with pytest.raises(RunNotFound, match="fits"):
            runs.find(**found)  # type: ignore[arg-type]
    assert runs.find(older) == older


def test_where_nothing_ever_started_the_newest_launch_is_meant(runs: Runs) -> None:
    runs.add("train", RunState.FAILED, started=False)
    newest = runs.add("train", RunState.FAILED, started=False)
    assert runs.find(started=True) == newest


@pytest.mark.parametrize("state", [RunState.PREPARING, RunState.STARTING])
def test_a_run_that_is_being_started_is_active(runs: Runs, state: RunState) -> None:
    begun = runs.add("train", state)
    runs.add("train", RunState.STOPPED)
    assert runs.find() == begun


def test_several_active_runs_are_listed_and_none_is_taken(runs: Runs) -> None:
    both = {runs.add("a", RunState.RUNNING), runs.add("b", RunState.STARTING)}
    ended = runs.add("c", RunState.SUCCEEDED)
    with pytest.raises(RunNotFound) as error:
        runs.find()
    assert all(name in str(error.value) for name in both) and ended not in str(error.value)


def test_where_none_is_active_the_newest_is_meant(runs: Runs) -> None:
    runs.add("a", RunState.SUCCEEDED)
    newest = runs.add("b", RunState.FAILED)
    assert runs.find() == newest
    assert not is_active(find_run(newest, runs.root))


def test_the_name_of_a_job_means_its_active_run(runs: Runs) -> None:
    active = runs.add("train", RunState.RUNNING)
    runs.add("train", RunState.FAILED)
    assert runs.find("train") == active


def test_the_name_of_a_job_with_several_runs_lists_them(runs: Runs) -> None:
    names = [runs.add("train", RunState.FAILED) for _ in range(2)]
    with pytest.raises(RunNotFound) as error:
        runs.find("train")
    assert all(name in str(error.value) for name in names) and "none of them" in str(error.value)


def test_a_verb_that_looks_takes_the_newest_run_of_a_job(runs: Runs) -> None:
    """The second launch of a job made `status JOB` and `collect-ckpt JOB` refuse."""
    runs.add("train", RunState.SUCCEEDED)
    newest = runs.add("train", RunState.FAILED)
    refused = runs.add("train", RunState.FAILED, started=False)
    runs.add("other", RunState.SUCCEEDED)
    assert runs.find("train", newest=True) == refused
    assert runs.find("train", newest=True, started=True) == newest
    for begin in ("tra", "train-20261126"):  # the beginning of a name is no job
        with pytest.raises(RunNotFound, match="fits"):
            runs.find(begin, newest=True)
    both = [runs.add("train", RunState.RUNNING) for _ in range(2)]
    with pytest.raises(RunNotFound, match=both[0]):
        runs.find("train", newest=True)


def test_the_name_of_a_job_is_not_the_beginning_of_another(runs: Runs) -> None:
    first = runs.add("train", RunState.FAILED)
    runs.add("train2", RunState.RUNNING)
    assert runs.find("train") == first


def test_a_whole_name_and_the_only_beginning_mean_that_run(runs: Runs) -> None:
    first = runs.add("train", RunState.FAILED)
    runs.add("other", RunState.RUNNING)
    assert runs.find(first) == runs.find("tr") == first


def test_a_long_list_is_bounded(runs: Runs) -> None:
    for _ in range(30):
        runs.add("train", RunState.FAILED)
    with pytest.raises(RunNotFound, match="and 22 more"):
        runs.find("train")


def test_a_record_that_cannot_be_read_is_not_taken_for_an_active_run(runs: Runs) -> None:
    newest = runs.add("a", RunState.SUCCEEDED)
    broken = ControlDir(runs.root / "runs" / runs.add("b", RunState.RUNNING))
    broken.record.write_text("[" * 9000)
    os.utime(broken.plan, (0, 0))
    assert runs.find() == newest


def test_a_run_is_asked_for_where_there_are_none(runs: Runs) -> None:
    with pytest.raises(RunNotFound, match="no run is known here"):
        runs.find()
    runs.add("a", RunState.RUNNING)
    with pytest.raises(RunNotFound, match="no run `x"):
        runs.find("x\x1b[2J")
