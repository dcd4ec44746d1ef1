"""Device locks: one holder, named, and free with its death."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator.agent.device_locks import DeviceLocks, busy_devices
from orchestrator.core.errors import AgentError
from orchestrator.testing.waiting import eventually

_HOLDER = """
import sys, time
from pathlib import Path
from orchestrator.agent.device_locks import DeviceLocks
locks = DeviceLocks(Path(sys.argv[1]), [0, 3], "the-first-run")
print("held", flush=True)
time.sleep(300)
"""


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    first = DeviceLocks(tmp_path / "locks", [0, 1], "the-first-run")
    with pytest.raises(AgentError) as caught:
        DeviceLocks(tmp_path / "locks", [2, 1], "the-second-run")
    assert caught.value.kind == "device_busy"
    assert str(caught.value) == (
        f"device 1 is in use by run the-first-run (process {os.getpid()}) "
        "(`orchestrate stop the-first-run` ends it, or give this job other devices)"
    )
    # The refused one has let go of what it got before.
    assert busy_devices(tmp_path / "locks", range(4)) == [0, 1]
    first.release()
    assert busy_devices(tmp_path / "locks", range(4)) == []


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert busy_devices(tmp_path, range(5)) == [0, 3]
        os.kill(holder.pid, signal.SIGKILL)
        eventually(lambda: busy_devices(tmp_path, range(5)) == [])
    DeviceLocks(tmp_path, [0, 3], "next").release()


def test_looking_creates_nothing_and_disturbs_nobody(tmp_path: Path) -> None:
    assert busy_devices(tmp_path / "none", [0, 1]) == []
    assert not (tmp_path / "none").exists()
    DeviceLocks(tmp_path, [0], "x").release()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            busy_devices(tmp_path, [0])

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(300):
            DeviceLocks(tmp_path, [0], "x").release()
    finally:
        over.set()
        looker.join()


@pytest.mark.parametrize(("folder", "lock"), [(0o2770, 0o660), (0o700, 0o600)])
def test_a_lock_is_for_those_who_may_write_to_its_folder(tmp_path: Path, folder: int, lock: int) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks").chmod(folder)
    old = os.umask(0o077)
    try:
        DeviceLocks(tmp_path / "locks", [0], "x").release()
        DeviceLocks(tmp_path / "made" / "locks", [0], "x").release()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "locks" / "device_0.lock").stat().st_mode) == lock
    assert stat.S_IMODE((tmp_path / "made" / "locks").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_locks_that_everyone_may_replace_are_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks").chmod(mode)
    with pytest.raises(AgentError, match=r"everyone may write to .*; chmod 2770"):
        DeviceLocks(tmp_path / "locks", [0], "x")
    assert not list((tmp_path / "locks").iterdir())


def test_another_file_under_the_name_of_a_lock_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "locks").mkdir()
    os.link(tmp_path / "precious", tmp_path / "locks" / "device_0.lock")
    with pytest.raises(AgentError, match="has other names"):
        DeviceLocks(tmp_path / "locks", [0], "x")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another account")
def test_another_accounts_lock_file_is_used_without_creating_it(tmp_path: Path) -> None:
    # fs.protected_regular has the kernel refuse O_CREAT here even to root; opening alone it allows.
    DeviceLocks(tmp_path / "locks", [0], "x").release()
    os.chown(tmp_path / "locks" / "device_0.lock", 65534, 65534)
    locks = DeviceLocks(tmp_path / "locks", [0], "y")
    assert busy_devices(tmp_path / "locks", [0]) == [0]
    locks.release()


def test_a_damaged_note_of_the_holder_is_no_error(tmp_path: Path) -> None:
    locks = DeviceLocks(tmp_path, [0], "x")
    (tmp_path / "device_0.lock").write_text("[1, 2")
    with pytest.raises(AgentError, match=r"^device 0 is in use \("):
        DeviceLocks(tmp_path, [0], "y")
    locks.release()


@pytest.mark.parametrize("is_pipe", [True, False])
def test_a_pipe_or_a_link_in_the_place_of_a_lock_is_told(tmp_path: Path, is_pipe: bool) -> None:
    """Whoever may write to a common lock_dir may put it there: nobody hangs or writes elsewhere."""
    lock, elsewhere = tmp_path / "device_0.lock", tmp_path / "precious"
    elsewhere.write_text("precious")
    os.mkfifo(lock) if is_pipe else lock.symlink_to(elsewhere)
    what = "a named pipe" if is_pipe else "a symbolic link, which is not followed"
    assert busy_devices(tmp_path, [0]) == []
    with pytest.raises(AgentError, match=f"cannot open {lock}: it is {what} .choose a lock_dir"):
        DeviceLocks(tmp_path, [0], "run")
    assert elsewhere.read_text() == "precious"
