"""Whose monitor a run has: on this machine, on another one that has the same home, or on none; never two."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.processes import boot_id, identify
from orchestrator.cli.sentences import watch_note
from orchestrator.control import monitor_lock
from orchestrator.control.monitor_lock import (
    LivingMonitor,
    MonitorNote,
    forget_monitor,
    living_monitor,
    monitor_pid,
    note_monitor,
    starting_alone,
)
from orchestrator.control.monitor_process import spawn_monitor, watched_again
from orchestrator.control.remove_runs import remove_runs
from orchestrator.control.run_record import read_record, write_record
from orchestrator.control.runs import attach, current_record
from orchestrator.control.stop import stop_run
from orchestrator.core.codec import dumps
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AssumedWarning, TransportError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import ProcessId
from orchestrator.core.states import RunState
from orchestrator.testing.local_cluster import processes_with
from tests.control.recorded import control_in, run_of
from tests.control.test_monitor import control_in as planned_in

HERE = socket.gethostname()
ANOTHER_BOOT = "00000000-1111-2222-3333-444444444444"
BECAUSE = StopReason.requested("because")


def no_locks(handle: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def note(control: ControlDir, host: str, boot: str = ANOTHER_BOOT, pid: int = 4242) -> None:
    control.monitor_note.write_text(dumps(MonitorNote(host, ProcessId(pid, 1, boot), 1.0)))


@contextmanager
def held(control: ControlDir) -> Iterator[None]:
    """The lock as a monitor with the process id 7 holds it."""
    with control.monitor_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("7")
        lock.flush()
        yield


def old(control: ControlDir) -> None:
    """Nothing of the run was written lately."""
    for path in (control.record, control.journal, control.monitor_note):
        if path.exists():
            os.utime(path, (1, 1))


@pytest.fixture
def control(tmp_path: Path) -> ControlDir:
    control = control_in(tmp_path)
    write_record(control, run_of(2))
    return control


def test_who_holds_the_lock_is_the_monitor(control: ControlDir) -> None:
    assert living_monitor(control) is None
    with held(control):
        assert living_monitor(control) == LivingMonitor(7) and monitor_pid(control) == 7
        note(control, HERE, boot_id(), 7)
        assert living_monitor(control) == LivingMonitor(7)
    assert living_monitor(control) is None


@pytest.mark.parametrize("locked", [True, False])
def test_a_monitor_of_another_machine_is_never_taken_for_a_process_of_this_one(
    control: ControlDir, locked: bool
) -> None:
    """Its process id means another process here."""
    note(control, "far")
    if locked:
        with held(control):
            assert living_monitor(control) == LivingMonitor(4242, "far") and monitor_pid(control) is None
    else:
        assert living_monitor(control) == LivingMonitor(4242, "far") and monitor_pid(control) is None
        old(control)
        assert living_monitor(control) == LivingMonitor(4242, "far", is_sure=False)


def test_what_is_noted_of_a_boot_that_is_over_or_of_another_container_here_is_no_monitor(
    control: ControlDir,
) -> None:
    note(control, HERE)
    assert living_monitor(control) is None
    note(control, "container", boot_id())
    assert living_monitor(control) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format": 1, "host": 3}'])
def test_a_note_that_cannot_be_read_leaves_it_to_the_lock(control: ControlDir, content: str) -> None:
    control.monitor_note.write_text(content)
    assert living_monitor(control) is None
    with held(control):
        assert living_monitor(control) == LivingMonitor(7)


def test_where_there_are_no_locks_the_process_that_is_noted_decides(control: ControlDir) -> None:
    control.monitor_lock.touch()
    assert living_monitor(control, lock=no_locks) is None
    note_monitor(control, os.getpid())
    assert living_monitor(control, lock=no_locks) == LivingMonitor(os.getpid())
    mine = identify(os.getpid())
    assert mine is not None
    again = MonitorNote(
        HERE, replace(mine, start_time=mine.start_time - 1)
    )  # the id is another process's now
    control.monitor_note.write_text(dumps(again))
    assert living_monitor(control, lock=no_locks) is None


def test_of_two_who_start_one_without_locks_one_does(control: ControlDir) -> None:
    with starting_alone(control) as first:
        with starting_alone(control) as second:
            assert (first, second) == (True, False)
        with starting_alone(control) as third:
            assert not third
    starting = control.root / "monitor.starting"
    assert not starting.exists()
    starting.touch()
    os.utime(starting, (1, 1))  # who was starting one has died
    with starting_alone(control) as alone:
        assert alone


def test_without_locks_none_is_started_beside_one_that_lives(control: ControlDir) -> None:
    note_monitor(control, os.getpid())
    with pytest.warns(AssumedWarning, match=r"monitor\.lock: this file system knows no locks"):
        spawn_monitor(control, lock=no_locks)
    assert not control.monitor_log.exists() and not processes_with(str(control.root))


@pytest.mark.parametrize("fresh", [True, False])
def test_no_monitor_is_started_beside_one_of_another_machine(control: ControlDir, fresh: bool) -> None:
    note(control, "far")
    if not fresh:
        old(control)
    with pytest.raises(TransportError) as caught:
        spawn_monitor(control, watch_only=True)
    (line,) = caught.value.lines()
    assert line.startswith("far: the monitor of r1 ") and "(process 4242)" in line
    assert line.endswith(f"rm {control.monitor_note})") and caught.value.exit_code == 3
    assert not control.monitor_log.exists() and not processes_with(str(control.root))


def test_verbs_of_another_machine_say_where_the_monitor_lives(tmp_path: Path) -> None:
    control = planned_in(tmp_path)
    write_record(control, replace(read_record(control), watched=time.time()))
    note(control, "far")
    for record in (current_record(control), attach(control), watched_again(control, read_record(control))):
        assert (record.elsewhere, record.unwatched) == ("far", None)
        assert watch_note(record).startswith("its monitor lives on far; this is what it wrote last, of ")
    with pytest.raises(TransportError, match=r"far: the monitor of .* lives on this machine") as caught:
        stop_run(control, BECAUSE)
    assert caught.value.exit_code == 3
    assert not control.monitor_log.exists() and not processes_with(str(control.root))


def test_a_run_that_has_ended_is_not_removed_beneath_a_monitor_of_another_machine(
    control: ControlDir,
) -> None:
    write_record(control, replace(run_of(2, RunState.FAILED), hosts={}, ended=time.time()))
    note(control, "far")
    with pytest.raises(TransportError, match="far: the monitor of r1 lives"):
        list(remove_runs([control], here_only=True))
    assert control.record.exists()
    old(control)
    assert list(remove_runs([control], here_only=True)) and not control.root.exists()


def test_a_monitor_takes_back_its_own_note_and_no_others(control: ControlDir) -> None:
    note(control, "far")
    forget_monitor(control)
    assert control.monitor_note.exists()
    note_monitor(control, os.getpid())
    said: Any = json.loads(control.monitor_note.read_text())
    assert (said["host"], said["process"]["pid"], said["process"]["boot_id"]) == (
        HERE,
        os.getpid(),
        boot_id(),
    )
    assert control.monitor_note.stat().st_mode & 0o777 == 0o600
    forget_monitor(control)
    assert not control.monitor_note.exists()


def test_what_a_file_system_says_that_is_no_lack_of_locks_is_an_error(control: ControlDir) -> None:
    def broken(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    control.monitor_lock.touch()
    with pytest.raises(OSError, match="Input/output"):
        monitor_lock.living_monitor(control, lock=broken)
