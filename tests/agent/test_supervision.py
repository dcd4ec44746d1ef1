"""Supervisors and their workers, through a real agent session: real forks, real signals, real files."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from orchestrator.agent.processes import is_alive
from orchestrator.core.ends import SCHEDULER, EndKind, StopKind, StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.records import WorkerSpec
from orchestrator.testing.agent_host import RUN, AgentHost, processes_in, sh
from orchestrator.testing.waiting import eventually

SLEEP = ("sleep", "300")
# A child in a session of its own, with its pid in a file: what a careless kill leaves behind.
ESCAPE = "setsid sleep 300 & echo $! >escaped; wait"


def test_all_workers_succeed(host: AgentHost) -> None:
    host.launch(sh("echo a"), sh("echo b >&2"))
    status = host.wait_over()
    assert [str(rank.state) for rank in status.ranks] == ["succeeded", "succeeded"]
    assert host.run_dir().attempt.log("rank_1").read_text() == "b\n"
    assert host.busy(0, 1) == []


def test_a_failure_stops_the_others_and_keeps_its_last_lines(host: AgentHost) -> None:
    host.launch(SLEEP, sh("echo so it ends; exit 3"))
    status = host.wait_over()
    stopped, failed = status.ranks
    assert status.failed_first == 1 and failed.end is not None and stopped.end is not None
    assert failed.end.exit_code == 3 and failed.end.tail == ("so it ends",)
    assert stopped.end.reason == StopReason(StopKind.WORKER_FAILED, "here", 1)
    assert str(stopped.state) == "stopped"


def test_a_crash_after_the_work_was_done_is_no_failure(host: AgentHost) -> None:
    host.launch(sh("touch done/rank_0; kill -SEGV $$"), sh("sleep 1; echo b"))
    first, second = host.wait_over().ranks
    assert str(first.state) == "succeeded" and first.end is not None
    assert (first.end.kind, first.end.signal) == (EndKind.CRASHED_WHEN_DONE, signal.SIGSEGV)
    assert str(second.state) == "succeeded"


@pytest.mark.parametrize("end", ["touch done/rank_1; kill -SEGV $$", "touch done/rank_0; exit 3"])
def test_another_ranks_word_or_an_exit_code_of_its_own_excuses_nothing(host: AgentHost, end: str) -> None:
    host.launch(sh(end), SLEEP)
    status = host.wait_over()
    assert status.failed_first == 0 and str(status.ranks[0].state) == "failed"


def test_a_worker_that_ignores_sigterm_is_killed_after_the_grace_period(host: AgentHost) -> None:
    host.launch(sh("trap '' TERM; touch up; while :; do sleep 0.1; done"))
    host.wait_up("up")
    host.tell("stop", reason="enough")
    rank = host.wait_over().ranks[0]
    assert str(rank.state) == "stopped" and rank.end is not None
    assert (rank.end.signal, rank.end.reason) == (signal.SIGKILL, StopReason.requested("enough"))


def test_grandchildren_end_with_the_run(host: AgentHost) -> None:
    host.launch(sh(ESCAPE))
    escaped = host.escaped()
    host.tell("stop", reason="enough")
    host.wait_over()
    assert not is_alive(escaped)


@pytest.mark.parametrize("which", ["supervisor", "guardian"])
def test_neither_killed_supervisor_nor_killed_guardian_leaves_workers(host: AgentHost, which: str) -> None:
    host.launch(SLEEP, sh(ESCAPE))
    escaped = host.escaped()
    victim = getattr(host.status(), which)
    os.kill(victim.pid, signal.SIGKILL)
    status = host.wait_over()
    assert {str(rank.state) for rank in status.ranks} <= {"failed", "stopped"}
    eventually(lambda: not is_alive(escaped) and not processes_in(host.run_dir().root), what="nothing left")
    assert host.busy(0, 1) == []


def test_a_prepared_run_undoes_itself_when_its_lease_runs_out(host: AgentHost) -> None:
    host.prepare(host.manifest(SLEEP, lease=0.5))
    assert host.busy(0) == [0]
    eventually(lambda: not host.run_dir().root.exists(), what="the run is gone")
    eventually(lambda: host.busy(0) == [])


def test_a_started_run_without_commit_is_stopped_when_its_lease_runs_out(host: AgentHost) -> None:
    host.prepare(host.manifest(SLEEP, lease=0.5))
    host.tell("start")
    status = host.wait_over()
    assert status.stop == StopReason(StopKind.LAUNCH_LAPSED)
    assert str(status.ranks[0].state) == "stopped"


def test_a_worker_that_ends_before_the_commit_waits_for_it(host: AgentHost) -> None:
    host.prepare(host.manifest(sh("true")))
    host.tell("start")
    eventually(lambda: host.states() == ["succeeded"])
    assert host.status().phase == "started"
    host.tell("commit")
    assert host.wait_over().stop is None


def test_two_runs_share_neither_devices_nor_ends(host: AgentHost) -> None:
    host.launch(SLEEP, run_id="one")
    with pytest.raises(AgentError, match="device 0 is in use by run one") as caught:
        host.prepare(host.manifest(SLEEP, run_id="two"))
    assert caught.value.kind == "device_busy"
    assert not host.run_dir("two").root.exists()
    other = host.manifest(SLEEP, run_id="two", devices=(5,))
    host.prepare(other)
    host.tell("start", "two")
    host.tell("commit", "two")
    host.tell("stop", "two", reason="enough")
    host.wait_over("two")
    assert host.states("one") == ["running"]


def test_a_port_in_use_is_found_before_anything_is_made(host: AgentHost) -> None:
    scheduler = WorkerSpec("scheduler", -1, -1, -1, SLEEP)
    with socket.create_server(("127.0.0.1", 0)) as server:
        manifest = host.manifest(SLEEP, scheduler=scheduler, port=server.getsockname()[1])
        with pytest.raises(AgentError, match="cannot be used") as caught:
            host.prepare(manifest)
    assert caught.value.kind == "port_in_use"
    assert not host.run_dir().root.exists()


def test_the_scheduler_may_outlive_the_workers_and_breaks_the_gang_when_it_fails(host: AgentHost) -> None:
    slow = WorkerSpec("scheduler", -1, -1, -1, sh("while [ ! -e go ]; do sleep 0.05; done"))
    host.launch(sh("true"), scheduler=slow, run_id="good")
    eventually(lambda: host.states("good") == ["succeeded"])
    assert not host.status("good").is_over
    (host.run_dir("good").root / "go").touch()
    host.wait_over("good")
    broken = WorkerSpec("scheduler", -1, -1, -1, sh("exit 4"))
    host.launch(SLEEP, scheduler=broken, run_id="bad")
    status = host.wait_over("bad")
    assert status.failed_first == SCHEDULER and status.scheduler and status.scheduler.end
    assert status.scheduler.end.exit_code == 4
    assert host.states("bad") == ["stopped"]


def test_secrets_are_in_no_command_line_and_the_files_are_private(host: AgentHost) -> None:
    spec = WorkerSpec("rank_0", 0, 0, 0, SLEEP, {"SECRET": "s3cret-of-this-test"})
    host.launch(workers=(spec,))
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [line for line in lines if b"s3cret-of-this-test" in line]
    run = host.run_dir()
    assert stat.S_IMODE(run.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(run.attempt.manifest.stat().st_mode) == 0o600


def test_env_script(host: AgentHost, tmp_path: Path) -> None:
    good, bad = tmp_path / "good env.sh", tmp_path / "bad.sh"
    good.write_text("export GIVEN=yes\n")
    bad.write_text("return 1\n")
    host.launch(sh("test $GIVEN = yes"), env_script=str(good), run_id="good")
    assert [str(rank.state) for rank in host.wait_over("good").ranks] == ["succeeded"]
    host.launch(sh("true"), env_script=str(bad), run_id="bad")
    assert (end := host.wait_over("bad").ranks[0].end) and end.exit_code == 126


def test_a_run_deeper_than_a_socket_address_can_say(tmp_path: Path) -> None:
    deep = AgentHost(tmp_path / ("d" * 120))
    try:
        deep.launch(sh("true"))
        deep.wait_over()
    finally:
        deep.close()


def test_logs_are_read_by_offset(host: AgentHost) -> None:
    host.launch(sh("printf 'one\\ntwo\\nthree\\n'"))
    host.wait_over()

    def read(offset: int, limit: int = 100) -> tuple[int, bytes]:
        answer, data = host.session.call_with_data(
            "read_log", run_id=RUN, label="rank_0", offset=offset, limit=limit
        )
        assert answer["size"] == 14
        return answer["offset"], data

    assert read(0) == (0, b"one\ntwo\nthree\n")
    assert read(4, 3) == (4, b"two")
    assert read(-6) == (8, b"three\n")
    assert read(-100) == (0, b"one\ntwo\nthree\n")
    assert read(99) == (14, b"")


def test_requests_that_make_no_sense_do_not_end_the_session(host: AgentHost) -> None:
    with pytest.raises(AgentError, match="knows no verb `dance`"):
        host.session.call("dance")
    with pytest.raises(AgentError, match="no run nothing"):
        host.tell("status", "nothing")
    with pytest.raises(AgentError, match="failed"):
        host.session.call("push")
    assert host.busy() == []


def test_a_pipe_in_the_place_of_metrics_or_a_log_holds_nobody_up(host: AgentHost) -> None:
    host.launch(sh("mkfifo metrics/rank_0.jsonl; rm logs/rank_0.log; mkfifo logs/rank_0.log; exit 3"))
    assert [rank.end and rank.end.exit_code for rank in host.wait_over().ranks] == [3]


def test_a_program_that_makes_its_checkpoint_folder_anew_is_collected_from_it(host: AgentHost) -> None:
    host.launch(sh("rm -r checkpoint; mkdir checkpoint; echo x >checkpoint/a_rank_0-1_4.ckpt"))
    host.wait_over()
    (shard,) = host.tell("shards")
    assert (shard["rank"], shard["step"]) == (0, 4)
    assert shard["path"] == str(host.run_dir().root / "checkpoint/a_rank_0-1_4.ckpt")


def test_what_a_worker_writes_by_name_is_in_its_attempt(host: AgentHost) -> None:
    """Its cwd is the directory of the run, which attempts share."""
    host.launch(sh("pwd; echo 1 >strategy/mine"))
    host.wait_over()
    attempt = host.run_dir().attempt
    assert attempt.root == host.run_dir().root / "attempts/1"
    assert attempt.log("rank_0").read_text() == f"{host.run_dir().root}\n"
    assert (attempt.root / "strategy/mine").exists()
