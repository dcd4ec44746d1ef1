"""The contract of supervision, held by workers in containers: some of the tests that hold it without.

What does not need a real runtime is in `test_container_keeper`.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent import container_probe
from orchestrator.agent.container_keeper import Place
from orchestrator.agent.container_remains import known_processes, oom_kills
from orchestrator.agent.processes import is_alive
from orchestrator.core.container_records import Mount
from orchestrator.core.ends import End, EndKind
from orchestrator.core.records import WorkerSpec
from orchestrator.testing.agent_host import RUN, sh
from orchestrator.testing.container_host import (
    IMAGE,
    ContainerHost,
    containers,
    podman,
    runtime_ready,
    why_not,
)
from orchestrator.testing.waiting import eventually
from tests.agent.test_ending import (  # noqa: F401
    STAY,
    test_a_killed_guardian_ends_the_run_in_order,
    test_a_killed_worker_is_failed_by_its_signal,
    test_both_killed_at_once_the_workers_are_lost,
    test_stop_is_gentle_first,
    test_undo_leaves_nothing,
)
from tests.agent.test_supervision import (  # noqa: F401
    test_a_worker_that_ignores_sigterm_is_killed_after_the_grace_period,
    test_all_workers_succeed,
    test_neither_killed_supervisor_nor_killed_guardian_leaves_workers,
    test_secrets_are_in_no_command_line_and_the_files_are_private,
)

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[None]:
    if why_not():
        pytest.skip(why_not())
    with runtime_ready():
        yield


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ContainerHost]:
    host = ContainerHost(tmp_path / "wörk dir's 用户, 2", seen=(tmp_path,))
    yield host
    host.close()
    eventually(lambda: not containers(RUN), what="no container is left, nor a record of one")


# What only containers have.


def end_of(host: ContainerHost, run_id: str = RUN) -> End:
    end = host.wait_over(run_id).ranks[0].end
    assert end is not None
    return end


def test_a_container_that_is_killed_from_outside_is_a_worker_that_was_killed(host: ContainerHost) -> None:
    host.launch(STAY, sh("sleep 300"))
    host.wait_file("up_0")
    for container in containers(RUN):
        if podman("inspect", "--format", '{{index .Config.Labels "orchestrate.rank"}}', container) == "0":
            podman("kill", container)
    status = host.wait_over()
    end = status.ranks[0].end
    assert end is not None and (end.kind, end.signal) == (EndKind.SIGNALLED, signal.SIGKILL)
    assert status.failed_first == 0 and str(status.ranks[1].state) == "stopped"


def test_the_worker_itself_is_what_its_rank_is_known_by(host: ContainerHost) -> None:
    """Not the keeper, nor the first process of the container: stacks and stalls are the worker's."""
    host.launch(STAY)
    worker = host.escaped("up_0")
    eventually(lambda: host.status().ranks[0].process == worker, what="the worker's own process")
    os.kill(worker.pid, signal.SIGSTOP)
    eventually(lambda: host.status().ranks[0].stalled is not None, timeout=15.0, what="that it is stopped")
    os.kill(worker.pid, signal.SIGCONT)
    assert Path(f"/proc/{worker.pid}/cmdline").read_bytes() == b"sleep\x00300\x00"
    host.tell("stop", reason="enough", now=True)
    assert end_of(host).signal in (signal.SIGTERM, signal.SIGKILL) and not is_alive(worker)


def test_a_python_program_shows_its_stacks_from_within(host: ContainerHost) -> None:
    program = "import time\ndef here():\n    open('up', 'w').write('1')\n    time.sleep(300)\nhere()"
    host.launch(("{python}", "-c", program), launch={"task": "command"})
    host.wait_file("up")
    worker = eventually(lambda: known_processes(place(host), host.workdir.runs).get("worker"))
    eventually(lambda: host.status().ranks[0].process == worker and host.status().ranks[0].can)
    stacks = host.tell("stacks")["ranks"]["0"]
    assert stacks["how"] == "faulthandler" and "in here" in stacks["text"]


def place(host: ContainerHost) -> Place:
    return Place(host.run_dir().attempt.root, "rank_0")


def test_an_image_that_is_missing_says_so_at_once(host: ContainerHost) -> None:
    host.launch(sh("true"), container=dataclasses.replace(host.container, image="localhost/none:7"))
    end = end_of(host)
    assert end.exit_code == 125 and "localhost/none:7" in " ".join(end.tail)


def test_the_environment_is_the_images_and_the_jobs_and_not_the_hosts(
    host: ContainerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/of/the/host")
    changed = dataclasses.replace(host.container, options=("--env=PYTHONPATH=/image", "--env=OF_IMAGE=1"))
    env = {"PYTHONPATH": "/job", "LINES": "one\ntwo # three", "DEVICE_ID": "3"}
    spec = WorkerSpec("rank_0", 0, 0, 0, ("/usr/bin/env", "-0"), env)
    host.launch(workers=(spec,), container=changed)
    assert end_of(host).exit_code == 0
    told = host.run_dir().attempt.log("rank_0").read_text().split("\0")
    assert {"PYTHONPATH=/job:/image", "OF_IMAGE=1", "LINES=one\ntwo # three", "DEVICE_ID=3"} <= set(told)
    assert not [line for line in told if line.startswith("LD_LIBRARY_PATH")]


def test_a_container_without_memory_tells_that_the_kernel_has_killed_there(host: ContainerHost) -> None:
    limited = dataclasses.replace(host.container, options=("--memory=64m", "--memory-swap=64m"))
    host.launch(("{python}", "-c", "x = b'x' * (1 << 28)"), container=limited)
    end = end_of(host)
    if end.signal != signal.SIGKILL:
        pytest.skip("control groups limit no memory here")
    assert oom_kills(host.run_dir().attempt, host.workdir.runs) >= 1
    assert host.tell("evidence")["kills_in_groups"] >= 1


def test_what_is_left_of_containers_is_removed_at_first_contact(host: ContainerHost) -> None:
    """As after a crash of everything of ours: a record that its runtime still has, and notes of it."""
    host.launch(sh("true"))
    host.wait_over()
    container = podman("create", "--label=orchestrate.run=run-1", IMAGE, "/bin/sh")
    place(host).cid.write_text(container)
    assert host.status().is_over
    assert containers(RUN) == [] and not place(host).cid.exists()


def test_a_look_into_an_image_that_does_not_end_leaves_no_container(
    host: ContainerHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_probe, "_STARTS", 0.0)
    script = tmp_path / "env.sh"
    script.write_text(f"touch {tmp_path}/inside/up; sleep 600\n")
    (tmp_path / "inside").mkdir()
    mounts = (*host.container.mounts, Mount(f"{tmp_path}/inside", f"{tmp_path}/inside"))
    spec = dataclasses.replace(host.container, mounts=mounts)
    found = container_probe.in_image(spec, [], str(script), patience=8.0)
    assert "does not answer within 8 s" in found.told["inside_trouble"]
    assert (tmp_path / "inside/up").exists()
    assert podman("ps", "--all", "--quiet", f"--filter=volume={tmp_path}") == ""
