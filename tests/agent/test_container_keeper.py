"""Keepers of workers, with a stand-in for the runtime that makes no container: what holds on any machine."""

from __future__ import annotations

import dataclasses
import errno
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent import container_keeper, container_remains, host_runs
from orchestrator.agent.container_keeper import Place
from orchestrator.agent.container_remains import known_processes
from orchestrator.agent.container_worker import ContainerWorker
from orchestrator.agent.processes import is_alive
from orchestrator.core.container_records import ContainerSpec
from orchestrator.core.ends import End, EndKind, StopReason
from orchestrator.core.records import Manifest, WorkerSpec
from orchestrator.testing.agent_host import RUN, AgentHost, sh
from orchestrator.testing.waiting import eventually
from tests.agent.test_ending import (  # noqa: F401
    STAY,
    test_a_killed_guardian_ends_the_run_in_order,
    test_a_killed_worker_is_failed_by_its_signal,
    test_a_worker_that_saves_when_it_is_told_to_end_is_stopped_and_says_what,
    test_both_killed_at_once_the_workers_are_lost,
    test_stop_is_gentle_first,
    test_stop_now_does_not_wait_for_the_grace,
)
from tests.agent.test_supervision import (  # noqa: F401
    test_a_crash_after_the_work_was_done_is_no_failure,
    test_a_failure_stops_the_others_and_keeps_its_last_lines,
    test_a_worker_that_ignores_sigterm_is_killed_after_the_grace_period,
    test_all_workers_succeed,
    test_env_script,
    test_secrets_are_in_no_command_line_and_the_files_are_private,
    test_the_scheduler_may_outlive_the_workers_and_breaks_the_gang_when_it_fails,
    test_two_runs_share_neither_devices_nor_ends,
)

# As runtimes do: an id into --cidfile, the entry point in the foreground, errors with 125. What it is told is
# written beside it.
RUNTIME = """\
import os, subprocess, sys
verb, words = sys.argv[1], sys.argv[2:]
open(os.path.join(os.path.dirname(__file__), "told"), "a").write(" ".join(sys.argv[1:]) + "\\n")
if verb == "ps":
    sys.exit(print(""))
if verb != "run":
    sys.exit(0)
given = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
at = next(index for index, word in enumerate(words) if not word.startswith("-"))
if words[at] == "missing":
    sys.stderr.write("Error: image not known\\n")
    sys.exit(125)
open(given["--cidfile"], "x").write("0123456789ab" * 4)
env = {name: value for name, value in os.environ.items() if name == "PATH"}
env["PYTHONPATH"] = "/of/the/image"
done = subprocess.run([given["--entrypoint"], *words[at + 1 :]], env=env, cwd=given["--workdir"])
sys.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)
"""


class StandInHost(AgentHost):
    """A host whose workers have keepers and the first process of a container, and no container."""

    def __init__(self, workdir: Path, folder: Path) -> None:
        super().__init__(workdir)
        self.folder = folder
        program = folder / "docker"
        (folder / "runtime.py").write_text(RUNTIME)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "{folder}/runtime.py" "$@"\n')
        program.chmod(0o755)
        self.container = ContainerSpec("image", str(program), sys.executable)

    def manifest(self, *commands: object, **changes: object) -> Manifest:
        return super().manifest(*commands, **{"container": self.container, **changes})  # type: ignore[arg-type]

    def told(self) -> list[str]:
        return (self.folder / "told").read_text().splitlines()

    def place(self) -> Place:
        return Place(self.run_dir().attempt.root, "rank_0")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[StandInHost]:
    (tmp_path / "bin").mkdir()
    host = StandInHost(tmp_path / "wörk dir's 用户", tmp_path / "bin")
    yield host
    host.close()


def end_of(host: StandInHost) -> End:
    end = host.wait_over().ranks[0].end
    assert end is not None
    return end


def test_ends_are_the_workers_own_and_no_note_is_left(host: StandInHost) -> None:
    host.launch(sh("exit 137"))
    end = end_of(host)
    assert (end.kind, end.exit_code, end.signal) == (EndKind.EXITED, 137, None)
    assert os.listdir(host.place().folder) == []


def test_a_program_that_is_not_there_is_not_started(host: StandInHost) -> None:
    host.launch(("/no/such/program",))
    end = end_of(host)
    what = "/no/such/program: No such file or directory"
    assert (end.kind, end.exit_code, end.message) == (EndKind.NOT_STARTED, 127, what)


def test_a_runtime_that_is_not_there_and_an_image_that_is_not(host: StandInHost) -> None:
    gone = dataclasses.replace(host.container, runtime="/no/such/runtime")
    host.launch(STAY, container=gone, run_id="one")
    (rank,) = host.wait_over("one").ranks
    assert rank.end is not None and rank.end.kind is EndKind.NOT_STARTED
    assert "/no/such/runtime" in rank.end.message
    host.launch(STAY, container=dataclasses.replace(host.container, image="missing"), run_id="two")
    (rank,) = host.wait_over("two").ranks
    assert rank.end is not None and rank.end.exit_code == 125 and "image not known" in rank.end.tail[-1]


def test_the_environment_is_the_images_and_the_jobs(host: StandInHost) -> None:
    env = {"PYTHONPATH": "/job", "LINES": "one\ntwo # three"}
    host.launch(workers=(WorkerSpec("rank_0", 0, 0, 0, ("/usr/bin/env", "-0"), env),))
    assert end_of(host).exit_code == 0
    told = host.run_dir().attempt.log("rank_0").read_text().split("\0")
    assert {"PYTHONPATH=/job:/of/the/image", "LINES=one\ntwo # three"} <= set(told)
    assert not [
        line for line in told if line.startswith(("HOME=", "ORCHESTRATE_PYTHONPATH")) and os.getuid() == 0
    ]
    assert not [line for line in host.told() if "three" in line]


def test_on_an_ascend_the_only_device_is_number_0(host: StandInHost) -> None:
    spec = WorkerSpec("rank_0", 0, 0, 3, sh("echo device $DEVICE_ID"), {"DEVICE_ID": "3"})
    host.launch(workers=(spec,), devices=(3,), container=dataclasses.replace(host.container, ascend=True))
    end_of(host)
    said, device = host.run_dir().attempt.log("rank_0").read_text().splitlines()
    assert (
        said.startswith("orchestrate: not in the container, for this host has none: ")
        and device == "device 0"
    )
    assert "/dev/davinci3" in said


def test_stacks_and_stalls_are_of_the_worker_itself(host: StandInHost) -> None:
    host.launch(STAY)
    worker = host.escaped("up_0")
    eventually(lambda: host.status().ranks[0].process == worker, what="the worker's own process")
    assert known_processes(host.place(), host.workdir.runs)["worker"] == worker


def test_a_killed_keeper_takes_its_worker_along(host: StandInHost) -> None:
    host.launch(STAY)
    worker = host.escaped("up_0")
    init = known_processes(host.place(), host.workdir.runs)["init"]
    # The client of the runtime is the keeper's child; the stand-in's init is a child of that.
    client = int(Path(f"/proc/{init.pid}/stat").read_text().rsplit(")")[-1].split()[1])
    keeper = int(Path(f"/proc/{client}/stat").read_text().rsplit(")")[-1].split()[1])
    os.kill(keeper, signal.SIGKILL)
    end = end_of(host)
    assert (end.kind, end.signal) == (EndKind.SIGNALLED, signal.SIGKILL)
    eventually(lambda: not is_alive(worker) and not is_alive(init), what="worker and container are gone")
    # Nobody was there to see it removed, so the guardian did.
    assert "rm --force " + "0123456789ab" * 4 in host.told()
    eventually(lambda: os.listdir(host.place().folder) == [], what="no note is left")


def test_a_host_without_processes_left_starts_none_and_still_takes_signals(
    host: StandInHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = WorkerSpec("rank_0", 0, 0, 0, ("true",), {})
    run = host.workdir.run(RUN)
    run.attempt.root.mkdir(parents=True)
    worker = ContainerWorker(spec, host.manifest(("true",)), run, host.container)

    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(OSError, match="temporarily unavailable"):
        worker.start(["true"], {}, {})
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}


def test_a_client_that_outlives_a_killed_container_is_not_waited_for(
    host: StandInHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container's first process is killed, says nothing of an end, and the runtime's client hangs."""
    monkeypatch.setattr(container_keeper, "_CLIENT_ENDS", 0.2)
    init = "import os, socket, sys; line = socket.socket(socket.AF_UNIX); os.chdir(sys.argv[1])"
    init += '; line.connect("rank_0.sock"); line.sendall(b\'{"hello": "init"}\\n\')'
    init += "; line.recv(4096); os.kill(os.getpid(), 9)"
    place = Place(tmp_path / "attempt", "rank_0")
    program = [sys.executable, "-c", init, str(place.folder)]
    client = f"import subprocess, sys, time; subprocess.run({program!r}); time.sleep(600)"
    told = {"log": str(tmp_path / "log")}
    place.folder.parent.mkdir()
    argv = [host.container.runtime, "run"]
    Path(host.container.runtime).write_text(
        f"#!/bin/sh\n[ $1 = run ] || exit 0\nexec {sys.executable} -c {shlex.quote(client)}\n"
    )
    pid = container_keeper.Keeper(argv, place, told, labels={}).spawn()
    status: list[int] = []
    try:
        eventually(lambda: status.extend(ended(pid)) or status, what="the keeper has ended")
    finally:
        if not status:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status[0]) and os.WTERMSIG(status[0]) == signal.SIGKILL
    assert os.listdir(place.folder) == []


def ended(pid: int) -> list[int]:
    """How a child of this process has ended, when it has."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return [status] if found else []


def test_a_stop_while_the_runtime_hangs(host: StandInHost) -> None:
    program = Path(host.container.runtime)
    program.write_text("#!/bin/sh\n[ $1 = run ] && exec sleep 600\necho it is ill; exit 1\n")
    host.launch(STAY, grace=0.5)
    host.tell("stop", reason="enough")
    status = host.wait_over(timeout=60.0)
    assert str(status.ranks[0].state) == "stopped" and status.stop == StopReason.requested("enough")
    assert "a container may be left: it is ill" in host.run_dir().attempt.log("rank_0").read_text()


def test_what_is_left_is_removed_at_first_contact(host: StandInHost) -> None:
    host.launch(sh("true"))
    host.wait_over()
    container = "ab" * 32
    host.place().cid.write_text(container)
    assert host.status().is_over
    assert f"rm --force {container}" in host.told() and not host.place().cid.exists()
    filters = "--filter=label=orchestrate.run=run-1 --filter=label=orchestrate.attempt=1-"
    [asked] = [line for line in host.told() if line.startswith("ps ")]
    assert asked.startswith(f"ps --all --quiet --no-trunc {filters}")
    # Hosts may be names of one machine, with one runtime.
    assert asked.endswith(f" --filter=label=orchestrate.host={host.manifest(STAY).host}")


def test_a_container_that_was_made_without_an_id_is_looked_for_by_its_rank(host: StandInHost) -> None:
    """Else the containers of all other ranks would go with it."""
    told = host.folder / "told"
    Path(host.container.runtime).write_text(
        f'#!/bin/sh\necho "$@" >> "{told}"\n[ $1 = run ] && kill -9 $$\nexit 0\n'
    )
    host.launch(STAY, STAY)
    host.wait_over()
    asked = {line.partition("orchestrate.rank=")[2] for line in host.told() if line.startswith("ps ")}
    here = host.manifest(STAY).host
    assert {f"{rank} --filter=label=orchestrate.host={here}" for rank in (0, 1)} <= asked


def test_a_runtime_that_hangs_holds_a_status_up_only_once(
    host: StandInHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight containers of two runs, and no call comes back: one time limit for all, and not again."""
    for run_id in (RUN, "another"):
        host.launch(sh("true"), run_id=run_id)
        host.wait_over(run_id)
        for rank in range(4):
            Place(host.run_dir(run_id).attempt.root, f"rank_{rank}").cid.write_text("ab" * 32)
    (host.folder / "told").unlink()
    Path(host.container.runtime).write_text(f'#!/bin/sh\necho "$@" >> "{host.folder}/told"\nexec sleep 600\n')
    monkeypatch.setattr(container_remains, "_CALL", 1.0)
    for _ in range(2):
        listed = host_runs.list_runs(host.workdir)
        assert [run.status.is_over for run in listed if run.status is not None] == [True, True]
    assert host.told() == ["rm --force " + "ab" * 32]
    assert host.place().cid.exists()
