"""Faults that a host injects into a run: real workers, and nothing but what belongs to the run."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent.processes import is_alive
from orchestrator.agent.status_file import StatusFile
from orchestrator.core.ends import EndKind
from orchestrator.core.errors import AgentError
from orchestrator.core.records import ProcessId
from orchestrator.hosts.agent_client import Agent
from orchestrator.testing.agent_host import RUN, AgentHost, sh
from orchestrator.testing.waiting import eventually
from tests.agent.small_disk import host_on_small_disk

WAITS = sh("echo up > up.$RANK_ID.$$; while :; do sleep 0.05; done")


@pytest.fixture
def agent(host: AgentHost) -> Iterator[Agent]:
    agent = host.new_agent()
    yield agent
    agent.close()


def process_of(host: AgentHost, rank: int) -> ProcessId:
    process = next(each.process for each in host.status().ranks if each.rank == rank)
    assert process is not None
    return process


def state_of(pid: int) -> str:
    """R, S, T, …, as proc(5) has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_killed_rank_is_the_cause_and_the_log_says_who_did_it(host: AgentHost, agent: Agent) -> None:
    host.launch(WAITS, WAITS)
    pid = process_of(host, 1).pid
    done = agent.inject(RUN, "kill", 1, None)
    assert (done.rank, done.pid, done.seconds) == (1, pid, None)
    status = host.wait_over()
    assert status.failed_first == 1
    end = status.ranks[1].end
    assert end is not None and (end.kind, end.signal) == (EndKind.SIGNALLED, signal.SIGKILL)
    assert "chaos: SIGKILL to rank_1" in host.run_dir().supervisor_log.read_text()


def test_a_frozen_rank_goes_on_after_its_time_though_nobody_is_there(host: AgentHost, agent: Agent) -> None:
    host.launch(WAITS)
    pid = process_of(host, 0).pid
    # For long enough to be seen frozen from here, on whatever else the machine does.
    assert agent.inject(RUN, "freeze", 0, 15.0).seconds == 15.0
    eventually(lambda: state_of(pid) == "T", what="frozen")
    agent.close()  # the control node goes away
    eventually(lambda: state_of(pid) != "T", what="thawed")
    assert host.states() == ["running"]


def test_a_rank_that_is_frozen_for_good_is_ended_by_a_stop(host: AgentHost, agent: Agent) -> None:
    host.launch(WAITS)
    process = process_of(host, 0)
    assert agent.inject(RUN, "freeze", 0, None).seconds is None
    eventually(lambda: state_of(process.pid) == "T", what="frozen")
    host.tell("stop", reason="enough")
    host.wait_over()
    assert not is_alive(process)


@pytest.mark.parametrize(
    ("kind", "rank", "seconds", "refusal"),
    [
        ("kill", 7, None, "rank 7 does not run on this host"),
        ("kill", None, None, "rank None does not run on this host"),
        ("melt", 0, None, "no kind of fault `melt` is known here"),
        ("freeze", 0, -1.0, "-1.0 seconds are no time for a fault"),
        ("freeze", 0, 1e9, "1000000000.0 seconds are no time for a fault"),
    ],
    ids=["other-rank", "no-rank", "other-kind", "before", "for-ever"],
)
def test_what_cannot_be_is_refused_and_hurts_nobody(
    host: AgentHost, agent: Agent, kind: str, rank: int | None, seconds: float | None, refusal: str
) -> None:
    host.launch(WAITS)
    with pytest.raises(AgentError) as caught:
        agent.inject(RUN, kind, rank, seconds)
    assert caught.value.what == refusal
    assert host.states() == ["running"]


def test_a_run_that_is_over_cannot_be_hurt(host: AgentHost, agent: Agent) -> None:
    host.launch(sh("true"))
    host.wait_over()
    with pytest.raises(AgentError, match="no workers to hurt here"):
        agent.inject(RUN, "kill", 0, None)
    with pytest.raises(AgentError, match="no run other on this host"):
        agent.inject("other", "kill", 0, None)


def test_a_pid_that_is_used_again_is_left_alone(host: AgentHost, agent: Agent) -> None:
    """The record names a process of the same number that began at another time: somebody else's."""
    host.launch(WAITS)
    supervisor = host.status().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGSTOP)  # it would write the record anew
    bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        file = StatusFile(host.run_dir().status, host.workdir.runs)
        before = file.read()
        (rank,) = before.ranks
        assert rank.process is not None
        taken = dataclasses.replace(rank.process, pid=bystander.pid)
        file.write(dataclasses.replace(before, ranks=(dataclasses.replace(rank, process=taken),)))
        assert process_of(host, 0).pid == bystander.pid
        with pytest.raises(AgentError, match="rank 0 does not run on this host"):
            agent.inject(RUN, "kill", 0, None)
        assert bystander.poll() is None
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
        bystander.kill()
        bystander.wait()


def test_the_disk_of_everything_is_filled_for_a_stated_time_only(host: AgentHost, agent: Agent) -> None:
    if host.workdir.root.parent.stat().st_dev != Path("/").stat().st_dev:
        pytest.skip("this machine's temporary files are not on the file system of /")
    host.launch(WAITS)
    with pytest.raises(AgentError, match="is on the file system of /, which everything here needs"):
        agent.inject(RUN, "fill_disk", None, None)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[AgentHost]:
    """A host whose workdir is on a file system of eight megabytes."""
    with host_on_small_disk(tmp_path / "disk", "8m") as host:
        yield host


def free_on(host: AgentHost) -> int:
    found = os.statvfs(host.workdir.root)
    return found.f_bfree * found.f_frsize


def is_writable(host: AgentHost) -> bool:
    path = host.workdir.root / "tried"
    try:
        path.write_bytes(b"x" * (256 << 10))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


@pytest.mark.root
@needs_root
def test_a_filled_disk_is_freed_by_the_host_itself(small: AgentHost) -> None:
    agent = small.new_agent()
    small.launch(WAITS)
    before = free_on(small)
    done = agent.inject(RUN, "fill_disk", None, 2.0)
    agent.close()  # the control node goes away
    assert done.seconds == 2.0 and done.free < 64 << 10 and done.filled > before - (1 << 20)
    assert not is_writable(small)
    eventually(lambda: is_writable(small), what="a disk with space")
    assert small.states() == ["running"]


@pytest.mark.root
@needs_root
def test_a_filled_disk_is_freed_when_its_run_is_over(small: AgentHost) -> None:
    agent = small.new_agent()
    go = small.workdir.root.parent.parent / "go"
    small.launch(sh(f"while [ ! -e '{go}' ]; do sleep 0.05; done"))
    assert agent.inject(RUN, "fill_disk", None, None).seconds == 60.0  # no time is given, and it is not /
    assert not is_writable(small)
    go.touch()
    begun = time.monotonic()
    eventually(lambda: is_writable(small), what="a disk with space")
    assert time.monotonic() - begun < 30
    agent.close()
