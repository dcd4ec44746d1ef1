"""How a run ends: failing workers, stop, undo, leases, and supervisors that are killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket

import pytest

from orchestrator.agent.processes import is_alive
from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.records import ProcessId, RankStatus, WorkerSpec
from orchestrator.testing.agent_host import AgentHost, processes_in, sh
from orchestrator.testing.waiting import eventually

UP = "echo $$ > up_{rank}; "
STAY = sh(UP + "exec sleep 300")
# Leaves its parent, its session and its process group.
ESCAPE = "(setsid sh -c 'echo $$ > escaped.part; mv escaped.part escaped; exec sleep 300' &); "


def kill(*processes: ProcessId | None) -> None:
    for process in processes:
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)


def end_of(rank: RankStatus) -> End:
    assert rank.end is not None
    return rank.end


def nothing_is_left(host: AgentHost) -> bool:
    return not host.run_dir().root.exists() and not processes_in(host.workdir.root) and host.busy(0, 1) == []


def test_a_killed_worker_is_failed_by_its_signal(host: AgentHost) -> None:
    host.launch(STAY, STAY)
    kill(host.escaped("up_0"))
    status = host.wait_over()
    end = status.ranks[0].end
    assert end is not None and (end.kind, end.signal, end.exit_code) == (EndKind.SIGNALLED, 9, None)
    assert str(status.ranks[0].state) == "failed"
    assert status.failed_first == 0 and str(status.ranks[1].state) == "stopped"


def test_an_end_keeps_the_lines_that_tell_who_failed(host: AgentHost) -> None:
    """Far above the last lines of its log."""
    line = "EI0002: A timeout occurs when the Notify register waits for execution. Waiting peer rank: 8"
    host.launch(sh(f"echo '{line}'; seq 100; exit 1"))
    end = end_of(host.wait_over().ranks[0])
    assert end.evidence == (line,) and line not in end.tail


def test_workers_that_fail_at_the_same_instant_keep_their_own_ends(host: AgentHost) -> None:
    gate = "while [ ! -e go ]; do sleep 0.01; done; "
    host.launch(sh(gate + "exit 4"), sh(gate + "exit 5"), sh(gate + "exit 0"))
    supervisor = host.status().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGSTOP)  # it finds all of them ended when it wakes
    (host.run_dir().root / "go").touch()
    eventually(lambda: processes_in(host.run_dir().root) == [])
    os.kill(supervisor.pid, signal.SIGCONT)
    ranks = host.wait_over().ranks
    assert [(str(rank.state), end_of(rank).exit_code) for rank in ranks] == [
        ("failed", 4),
        ("failed", 5),
        ("succeeded", 0),
    ]


def test_a_supervisor_that_is_stopped_is_woken_to_end_its_workers(host: AgentHost) -> None:
    host.launch(STAY)
    worker, status = host.escaped("up_0"), host.status()
    for process in (status.supervisor, status.guardian):
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
    host.tell("stop", reason="enough")
    status = host.wait_over()
    assert [str(rank.state) for rank in status.ranks] == ["stopped"] and not is_alive(worker)
    assert status.stop == StopReason(StopKind.REQUESTED, text="enough") and host.busy(0) == []


def test_a_worker_that_fails_while_others_are_started(host: AgentHost) -> None:
    host.prepare(host.manifest(sh("exit 6"), *[STAY] * 7))
    host.tell("start")
    eventually(lambda: host.status().is_over)
    assert end_of(host.status().ranks[0]).exit_code == 6
    assert set(host.states()[1:]) == {"stopped"}


def test_a_command_that_does_not_exist(host: AgentHost) -> None:
    host.prepare(host.manifest(STAY, ("/no/such/program",), STAY))
    answer = host.tell("start")
    assert answer["failed_first"] == "rank_1"
    assert answer["reason"] == "/no/such/program: No such file or directory"
    status = host.wait_over()
    assert [str(rank.state) for rank in status.ranks] == ["stopped", "failed", "stopped"]
    assert end_of(status.ranks[1]).kind is EndKind.NOT_STARTED and status.ranks[2].process is None


def test_a_command_that_cannot_be_one(host: AgentHost) -> None:
    host.prepare(host.manifest(("/bin/echo", "a\0b")))
    assert "null byte" in host.tell("start")["reason"]
    assert end_of(host.wait_over().ranks[0]).exit_code == 127


def test_stop_is_gentle_first(host: AgentHost) -> None:
    host.launch(sh("trap 'echo bye; exit 0' TERM; " + UP + "while :; do sleep 0.05; done"))
    host.wait_file("up_0")
    host.tell("stop", reason="asked for")
    status = host.wait_over()
    assert end_of(status.ranks[0]).reason == StopReason.requested("asked for")
    assert str(status.ranks[0].state) == "stopped"
    assert host.run_dir().attempt.log("rank_0").read_text().endswith("bye\n")


def test_stop_now_does_not_wait_for_the_grace(host: AgentHost) -> None:
    host.launch(sh("trap '' TERM; " + UP + "while :; do sleep 0.05; done"), grace=600.0)
    host.wait_file("up_0")
    host.tell("stop", reason="asked for", now=True)
    assert end_of(host.wait_over(timeout=60).ranks[0]).signal == 9


def test_what_workers_leave_behind_dies_with_the_run(host: AgentHost) -> None:
    host.launch(sh(ESCAPE + "sleep 300 & while [ ! -e go ]; do sleep 0.02; done"))
    escaped = host.escaped()
    (host.run_dir().root / "go").touch()
    host.wait_over()
    assert not is_alive(escaped)
    assert processes_in(host.run_dir().root) == []


def test_stopping_twice_and_after_the_end(host: AgentHost) -> None:
    host.launch(STAY)
    for _ in range(2):
        host.tell("stop", reason="asked for")
    host.wait_over()
    assert host.tell("stop", reason="again")["phase"] == "over"
    assert host.status().stop == StopReason.requested("asked for")


def test_a_killed_guardian_ends_the_run_in_order(host: AgentHost) -> None:
    host.launch(sh(ESCAPE + UP + "exec sleep 300"), STAY)
    workers = [host.escaped(name) for name in ("up_0", "up_1")]
    kill(host.status().guardian)
    status = host.wait_over()
    assert not any(is_alive(worker) for worker in workers)
    assert [str(rank.state) for rank in status.ranks] == ["stopped", "stopped"]
    assert status.stop == StopReason(StopKind.GUARDIAN_ENDED)
    assert host.busy(0, 1) == []


def test_both_killed_at_once_the_workers_are_lost(host: AgentHost) -> None:
    host.launch(STAY, STAY, scheduler=WorkerSpec("scheduler", -1, -1, -1, STAY))
    workers = [host.escaped(name) for name in ("up_0", "up_1", "up_-1")]
    status = host.status()
    assert status.guardian is not None
    os.kill(status.guardian.pid, signal.SIGSTOP)  # so that it cannot write its last words in between
    kill(status.supervisor, status.guardian)
    eventually(lambda: not any(is_alive(worker) for worker in workers))
    status = host.wait_over()
    assert [str(rank.state) for rank in status.ranks] == ["lost", "lost"]
    assert status.scheduler is not None and str(status.scheduler.state) == "lost"
    assert status.stop == StopReason(StopKind.SUPERVISOR_GONE) and host.busy(0, 1) == []


@pytest.mark.parametrize("started", [False, True])
def test_undo_leaves_nothing(host: AgentHost, started: bool) -> None:
    writes = "while :; do echo x > logs/$$.txt; rm -f logs/$$.txt; done"
    host.prepare(host.manifest(sh(f"(setsid sh -c '{writes}' &); " + UP + "trap '' TERM; " + writes)))
    if started:
        host.tell("start")
        host.tell("commit")
        host.wait_file("up_0")
    host.tell("undo")
    assert nothing_is_left(host)
    host.tell("undo")  # of what is not there: no error


def test_undo_of_a_finished_run_removes_it(host: AgentHost) -> None:
    host.launch(sh("true"))
    host.wait_over()
    host.tell("undo")
    assert nothing_is_left(host)


@pytest.mark.parametrize("name", ["", ".", "..", "../runs", "/"])
def test_undo_removes_runs_only(host: AgentHost, name: str) -> None:
    host.prepare(host.manifest(sh("true")))
    host.tell("undo", run_id=name)
    assert host.status().phase == "prepared"


def test_a_half_made_run_can_be_undone(host: AgentHost) -> None:
    host.run_dir().root.mkdir(parents=True)
    (host.run_dir().root / "logs").mkdir()
    host.tell("undo")
    assert not host.run_dir().root.exists()


def test_a_run_whose_directory_is_removed_ends(host: AgentHost) -> None:
    host.launch(STAY)
    worker, status = host.escaped("up_0"), host.status()
    shutil.rmtree(host.run_dir().root)
    eventually(lambda: not is_alive(worker) and not is_alive(status.guardian))
    assert host.busy(0) == []


def test_a_scheduler_that_outlives_all_can_be_stopped(host: AgentHost) -> None:
    host.launch(sh("true"), scheduler=WorkerSpec("scheduler", -1, -1, -1, STAY))
    eventually(lambda: host.states() == ["succeeded"])
    host.tell("stop", reason="all ranks are done")
    status = host.wait_over()
    assert [str(rank.state) for rank in status.ranks] == ["succeeded"]
    assert status.scheduler is not None and str(status.scheduler.state) == "stopped"


def test_a_silent_peer_at_the_socket_does_not_stop_the_watch(host: AgentHost) -> None:
    host.launch(STAY)
    with socket.socket(socket.AF_UNIX) as peer:
        folder = os.open(host.run_dir().root, os.O_RDONLY)
        peer.connect(f"/proc/self/fd/{folder}/control.sock")
        peer.sendall(b"no json\n")
        os.close(folder)
        host.tell("stop", reason="asked for")
        host.wait_over()
    with pytest.raises(AgentError):
        host.tell("start")


# Told to end: a program that saves, one that saves unasked, one that is deaf.

SAYS = ">> metrics/rank_{rank}.jsonl"
SAVES = (
    f'save() {{ echo \'{{"phase": "step", "saved": 8}}\' {SAYS}; exit 75; }}; trap save TERM; '
    f'echo \'{{"phase": "step", "can": ["save"]}}\' {SAYS}; echo \'{{"step": 7}}\' {SAYS}; '
    + UP
    + "while :; do sleep 0.05; done"
)


def test_a_worker_that_saves_when_it_is_told_to_end_is_stopped_and_says_what(host: AgentHost) -> None:
    host.launch(sh(SAVES))
    eventually(lambda: host.status().ranks[0].can == ("save",))
    told = host.tell("stop", reason="enough")
    assert told["saves"] and told["grace"] > 100.0  # no save was seen yet
    status = host.wait_over()
    end = end_of(status.ranks[0])
    assert (str(status.ranks[0].state), end.kind, end.exit_code, end.saved, end.step) == (
        "stopped",
        EndKind.STOPPED,
        75,
        8,
        7,
    )


def test_a_sigterm_that_was_not_ours_is_a_failure(host: AgentHost) -> None:
    host.launch(sh(SAVES))
    eventually(lambda: host.status().ranks[0].can == ("save",))
    os.kill(host.escaped("up_0").pid, signal.SIGTERM)
    status = host.wait_over()
    assert str(status.ranks[0].state) == "failed" and status.failed_first == 0
    assert (end_of(status.ranks[0]).exit_code, end_of(status.ranks[0]).saved) == (75, 8)


def test_the_others_of_one_that_failed_are_not_given_the_grace_of_a_stop(host: AgentHost) -> None:
    deaf = sh("trap '' TERM; " + UP + "while :; do sleep 0.05; done")
    host.launch(deaf, sh("while [ ! -e up_0 ]; do sleep 0.05; done; exit 3"), grace=60.0, failure_grace=0.5)
    status = host.wait_over()
    assert end_of(status.ranks[0]).signal == 9 and str(status.ranks[0].state) == "stopped"


def test_a_checkpoint_at_the_end_of_a_life_is_waited_for(host: AgentHost) -> None:
    """As MindSpore writes it: the folder's name says that it is not whole yet."""
    folder = "ttp_saved_checkpoints-step_7"
    saves = f"mkdir -p out/{folder}_tmp; sleep 3; mv out/{folder}_tmp out/{folder}; exit 1"
    last = sh(f"save() {{ {saves}; }}; trap save TERM; {UP} while :; do sleep 0.05; done")
    host.launch(last, sh("while [ ! -e up_0 ]; do sleep 0.05; done; exit 3"), grace=20.0, failure_grace=1.5)
    status = host.wait_over(timeout=60.0)
    assert end_of(status.ranks[0]).exit_code == 1
    assert (host.run_dir().root / "out" / folder).is_dir()
