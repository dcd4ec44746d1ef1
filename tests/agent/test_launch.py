"""A run on one host from prepare to its end, through a real session: what goes right."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from orchestrator.agent.processes import is_alive
from orchestrator.errors import AgentError
from orchestrator.records import Input, Manifest, WorkerSpec
from tests.agent.host import RUN, AgentHost, processes_in, sh
from tests.waiting import eventually


def test_all_workers_succeed(host: AgentHost) -> None:
    host.launch(sh("echo one"), sh("echo two"))
    status = host.wait_over()
    assert [(str(rank.state), rank.exit_code) for rank in status.ranks] == [("succeeded", 0)] * 2
    assert status.failed_first == "" and status.stop_reason == ""
    assert (
        host.session.call_with_data("read_log", run_id=RUN, label="rank_1", offset=0, limit=99)[1] == b"two\n"
    )
    assert host.busy(0, 1) == []
    events = [json.loads(line)["event"] for line in host.run_dir().events.read_text().splitlines()]
    assert events == ["start", "exit", "exit", "over"]


def test_the_phases_of_a_launch(host: AgentHost) -> None:
    host.prepare(host.manifest(sh("echo $$ > up; exec sleep 300")))
    assert host.status().phase == "prepared" and host.states() == ["pending"]
    assert host.busy(0, 1) == [0]
    host.tell("start")
    assert host.status().phase == "started"
    host.wait_file("up")
    assert host.states() == ["running"]
    assert host.tell("commit")["phase"] == "committed"
    assert host.tell("start")["phase"] == "committed"  # again, as after a broken connection: no second worker
    assert len(processes_in(host.run_dir().root)) == 1


def test_a_run_that_is_done_before_its_commit_waits_for_it(host: AgentHost) -> None:
    host.prepare(host.manifest(sh("true")))
    host.tell("start")
    eventually(lambda: host.states() == ["succeeded"])
    assert host.status().phase == "started"
    host.tell("commit")
    assert host.wait_over().failed_first == ""


def test_files_of_the_run_are_placed_and_read_back(host: AgentHost) -> None:
    data = b"print('hi')\n"
    sha256 = hashlib.sha256(data).hexdigest()
    assert host.session.call("missing", hashes=[sha256]) == [sha256]
    host.session.call("push", payload=data, sha256=sha256, size=len(data))
    manifest = host.manifest(("{python}", "script.py"), inputs=(Input("script.py", sha256),))
    answer = host.prepare(manifest, rank_table='{"x": 1}')
    assert answer["hashes"] == {
        "worker.yaml": hashlib.sha256(b"a: 1\n").hexdigest(),
        "rank_table.json": hashlib.sha256(b'{"x": 1}').hexdigest(),
    }
    assert answer["run_dir"] == str(host.run_dir().root)
    host.tell("start")
    host.tell("commit")
    host.wait_over()
    assert host.run_dir().log("rank_0").read_bytes() == b"hi\n"
    assert Manifest.from_json(json.loads(host.run_dir().manifest.read_text())) == manifest


def test_only_the_owner_can_read_a_run(host: AgentHost) -> None:
    host.prepare(host.manifest(sh("true")), rank_table="{}")
    run = host.run_dir()
    assert stat.S_IMODE(run.root.stat().st_mode) == 0o700
    for path in (run.manifest, run.worker_config, run.rank_table, run.status):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_what_a_worker_sees_of_the_environment(tmp_path: Path) -> None:
    os.environ["SECRET_OF_THE_SESSION"] = "x"
    os.environ["ASCEND_GLOBAL_LOG_LEVEL"] = "3"
    try:
        host = AgentHost(tmp_path)
    finally:
        del os.environ["SECRET_OF_THE_SESSION"], os.environ["ASCEND_GLOBAL_LOG_LEVEL"]
    worker = WorkerSpec(
        "rank_0", 0, 0, 0, ("/usr/bin/env", "-0"), {"JOB": "two words\nand a line", "R": "{rank}"}
    )
    try:
        host.launch(workers=(worker,), devices=(0,))
        host.wait_over()
    finally:
        host.close()
    text = host.run_dir().log("rank_0").read_text()
    env = dict(item.split("=", 1) for item in text.split("\0") if item)
    assert env["JOB"] == "two words\nand a line" and env["R"] == "0"
    assert env["ASCEND_GLOBAL_LOG_LEVEL"] == "3" and env["PATH"] == os.environ["PATH"]
    assert "SECRET_OF_THE_SESSION" not in env
    assert env["PYTHONUNBUFFERED"] == "1"


def test_placeholders_are_filled_on_the_host(host: AgentHost) -> None:
    argv = (
        "/bin/sh",
        "-c",
        'echo "$@"; echo "$PLACE"',
        "x",
        "{run_dir}",
        "{rank}",
        "{python}",
        "{port}",
        "{other}",
    )
    worker = WorkerSpec("rank_7", 7, 0, 0, argv, {"PLACE": "{run_dir}/rank_table.json:{port}"})
    host.launch(workers=(worker,), devices=(0,), port=4321)
    host.wait_over()
    root, first, second = host.run_dir().root, *host.run_dir().log("rank_7").read_text().splitlines()
    assert first.startswith(f"{root} 7 /") and first.endswith(" 4321 {other}")
    assert second == f"{root}/rank_table.json:4321"


def test_no_command_line_shows_the_environment(host: AgentHost) -> None:
    script = host.workdir.root.parent / "env.sh"
    script.write_text("true\n")
    worker = WorkerSpec("rank_0", 0, 0, 0, sh("touch up; sleep 300"), {"TOKEN": "geheim-4711"})
    host.launch(workers=(worker,), devices=(0,), env_script=str(script))
    host.wait_up("up")
    shown = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                shown.append((entry / "cmdline").read_bytes())
            except OSError:
                continue
    assert any(b"touch up" in line for line in shown)
    assert not any(b"geheim-4711" in line for line in shown)


def test_the_env_script_is_sourced_first(host: AgentHost, tmp_path: Path) -> None:
    script = tmp_path / "set env.sh"
    script.write_text("export FROM_SCRIPT=yes; export OF_JOB=script\necho noise\n")
    worker = WorkerSpec("rank_0", 0, 0, 0, sh('echo "$FROM_SCRIPT $OF_JOB"'), {"OF_JOB": "job"})
    host.launch(workers=(worker,), devices=(0,), env_script=str(script))
    assert host.wait_over().ranks[0].exit_code == 0
    assert host.run_dir().log("rank_0").read_text() == "noise\nyes script\n"


@pytest.mark.parametrize("content", ["return 5\n", None], ids=["fails", "is missing"])
def test_an_env_script_that_fails_fails_the_worker(
    host: AgentHost, tmp_path: Path, content: str | None
) -> None:
    script = tmp_path / "env.sh"
    if content is not None:
        script.write_text(content)
    host.launch(sh("touch ran"), env_script=str(script))
    status = host.wait_over()
    assert (str(status.ranks[0].state), status.ranks[0].exit_code) == ("failed", 126)
    assert not (host.run_dir().root / "ran").exists()


def test_progress_is_the_newest_whole_line_of_the_metrics(host: AgentHost) -> None:
    lines = r"""printf '{"step": 1}\n{"step": 2}\n{"st' > metrics/rank_0.jsonl; touch up; sleep 300"""
    host.launch(sh(lines))
    host.wait_up("up")
    eventually(lambda: host.status().ranks[0].progress == {"step": 2})


def test_a_run_directory_beyond_a_sockets_length(tmp_path: Path) -> None:
    host = AgentHost(tmp_path / ("long-" * 20) / ("longer-" * 20))
    try:
        assert len(str(host.run_dir().control_socket)) > 250
        host.launch(sh("sleep 300"))
        assert host.tell("stop", reason="enough")["phase"] == "stopping"
        assert host.wait_over().stop_reason == "enough"
    finally:
        host.close()


def test_two_runs_with_devices_of_their_own(host: AgentHost) -> None:
    host.launch(sh("sleep 300"), run_id="run-1", devices=(0, 1))
    host.launch(sh("sleep 300"), run_id="run-2", devices=(2, 3))
    assert host.busy(*range(5)) == [0, 1, 2, 3]
    host.tell("stop", "run-1", reason="enough")
    host.wait_over("run-1")
    assert host.states("run-2") == ["running"]
    assert host.busy(*range(5)) == [2, 3]
    listed = host.session.call("list_runs")
    assert [item["status"]["phase"] for item in listed] == ["over", "committed"]


def test_a_device_in_use_is_refused_and_leaves_nothing(host: AgentHost) -> None:
    host.launch(sh("sleep 300"), devices=(3,))
    with pytest.raises(AgentError, match="device 3 is in use by run run-1") as caught:
        host.prepare(host.manifest(sh("true"), run_id="run-2", devices=(2, 3)))
    assert caught.value.kind == "device_busy"
    assert not host.run_dir("run-2").root.exists()
    assert host.busy(2, 3) == [3]


def test_devices_are_free_as_soon_as_a_run_is_over(host: AgentHost) -> None:
    for index in range(4):
        host.launch(sh("(setsid sleep 300 &); sleep 300"), run_id=f"run-{index}")
        host.tell("stop", f"run-{index}", reason="next")
        host.wait_over(f"run-{index}")


def test_locks_can_live_outside_the_workdir(host: AgentHost, tmp_path: Path) -> None:
    host.prepare(host.manifest(sh("true"), lock_dir=str(tmp_path / "shared locks")))
    assert host.session.call("probe", devices=[0], lock_dir=str(tmp_path / "shared locks"))[
        "busy_devices"
    ] == [0]
    assert host.busy(0) == []


def test_the_same_run_twice_is_refused(host: AgentHost) -> None:
    host.prepare(host.manifest(sh("true")))
    with pytest.raises(AgentError) as caught:
        host.prepare(host.manifest(sh("true"), devices=(5,)))
    assert caught.value.kind == "run_exists"
    assert host.status().phase == "prepared"


def test_an_input_that_is_not_in_the_store_leaves_nothing(host: AgentHost) -> None:
    with pytest.raises(AgentError) as caught:
        host.prepare(host.manifest(sh("true"), inputs=(Input("x", "0" * 64),)))
    assert caught.value.kind == "missing_input"
    assert not host.run_dir().root.exists() and host.busy(0) == []


def test_read_log_from_the_start_and_from_the_end(host: AgentHost) -> None:
    host.launch(sh("printf 0123456789"))
    host.wait_over()

    def read(offset: int, limit: int, label: str = "rank_0") -> tuple[bytes, int, int]:
        found, data = host.session.call_with_data(
            "read_log", run_id=RUN, label=label, offset=offset, limit=limit
        )
        return data, found["offset"], found["size"]

    assert read(0, 4) == (b"0123", 0, 10)
    assert read(8, 100) == (b"89", 8, 10)
    assert read(10, 100) == (b"", 10, 10)
    assert read(99, 100) == (b"", 10, 10)
    assert read(-3, 100) == (b"789", 7, 10)
    assert read(-3, 2) == (b"78", 7, 10)
    assert read(-99, 100) == (b"0123456789", 0, 10)
    assert read(0, 4, "rank_9") == (b"", 0, 0)
    assert read(0, 4, "../manifest.json") == (b"", 0, 0)


def test_the_session_may_end_before_the_run(host: AgentHost) -> None:
    host.launch(sh("echo $$ > up; exec sleep 300"))
    worker = host.escaped("up")
    host.session.close()
    host.session = host.new_session()
    assert is_alive(worker) and host.states() == ["running"]
