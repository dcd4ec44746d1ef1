"""Identity of processes, and that nothing of a dead tree is left."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.agent.processes import identify, is_alive, kill_group, signal_group
from orchestrator.testing.waiting import eventually

# Argument: a file for the pid of a process that has left our group, our session and its parent.
_KILLER = """
import subprocess, sys, time
from orchestrator.agent import processes
processes.become_subreaper()
path = sys.argv[1]
escape = '(setsid sh -c "sleep 300 & echo \\\\$! > $0" &); exec sleep 300'
child = subprocess.Popen(["sh", "-c", escape, path], start_new_session=True)
while not open(path, "a+").tell():
    time.sleep(0.01)
print(processes.kill_descendants(), processes._children())
"""

_PARENT = """
import os, signal, subprocess, sys, time
from orchestrator.agent.processes import die_with_parent
me = os.getpid()
child = subprocess.Popen(["sleep", "300"], preexec_fn=lambda: die_with_parent(signal.SIGKILL, me))
print(child.pid, flush=True)
time.sleep(300)
"""


def test_identity_of_a_living_process() -> None:
    me = identify(os.getpid())
    assert me is not None and me.pid == os.getpid() and me.start_time > 0 and me.boot_id
    assert is_alive(me)


def test_a_used_again_pid_is_not_taken_for_the_process() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert not is_alive(dataclasses.replace(me, start_time=me.start_time + 1))
    assert not is_alive(dataclasses.replace(me, boot_id="another boot"))
    assert not kill_group(dataclasses.replace(me, start_time=me.start_time - 1))


def test_a_zombie_and_a_buried_process_are_not_alive() -> None:
    with subprocess.Popen(["sleep", "300"]) as child:
        process = identify(child.pid)
        assert is_alive(process)
        child.kill()
        eventually(lambda: not is_alive(process))
        assert identify(child.pid) == process  # a zombie still has its entry
    assert identify(child.pid) is None
    assert not is_alive(process)
    assert not is_alive(None)


def test_a_command_name_with_blanks_and_parentheses(tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1 (b c"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "300"]) as child:
        process = identify(child.pid)
        assert is_alive(process) and process is not None and process.start_time > 1
        child.kill()


def test_signalling_a_group_that_is_gone_says_so() -> None:
    with subprocess.Popen(["true"], start_new_session=True) as child:
        pass
    assert not signal_group(child.pid, signal.SIGTERM)


def test_kill_descendants_finds_what_left_session_and_parent(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    done = subprocess.run(
        [sys.executable, "-c", _KILLER, str(path)], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == "True []"
    assert not Path(f"/proc/{path.read_text().strip()}").exists()


def test_the_kernel_takes_a_child_along_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = identify(int(parent.stdout.readline()))
        assert is_alive(child)
        os.kill(parent.pid, signal.SIGKILL)
        eventually(lambda: not is_alive(child))


def test_a_parent_that_died_before_the_call_counts_as_dead() -> None:
    script = (
        "import signal; from orchestrator.agent.processes import die_with_parent as d; d(signal.SIGKILL, 1)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
