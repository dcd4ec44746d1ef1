"""A run on one host from prepare to its end, through a real session: what goes right."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest

from orchestrator.agent.processes import is_alive
from orchestrator.core.codec import loads, to_json
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.records import Input, Manifest, WorkerSpec
from orchestrator.testing.agent_host import RUN, AgentHost, processes_in, sh
from orchestrator.testing.waiting import eventually
from tests.old_pythons import python_of


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
    assert host.run_dir().attempt.log("rank_0").read_bytes() == b"hi\n"
    assert loads(Manifest, host.run_dir().attempt.manifest.read_bytes()) == manifest


@pytest.mark.parametrize("brought", [b"print('hello')", b"print('hellp')"], ids=["whole", "damaged"])
def test_a_small_content_comes_with_the_request_to_prepare(host: AgentHost, brought: bytes) -> None:
    script = b"print('hello')"
    sha256 = hashlib.sha256(script).hexdigest()
    manifest = host.manifest(("{python}", "script.py"), inputs=(Input("script.py", sha256),))
    bundle = {"manifest": to_json(manifest), "worker_config": "a: 1\n", "rank_table": None}
    bundle["contents"] = {sha256: base64.b64encode(brought).decode()}

    def prepare() -> None:
        host.session.call("prepare", payload=json.dumps(bundle).encode())

    if brought == script:
        prepare()
        assert (host.run_dir().root / "script.py").read_bytes() == script
        assert (host.workdir.store / sha256).read_bytes() == script
    else:
        with pytest.raises(AgentError, match="arrived damaged"):
            prepare()
        assert not host.run_dir().root.exists()


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
    text = host.run_dir().attempt.log("rank_0").read_text()
    env = dict(item.split("=", 1) for item in text.split("\0") if item)
    assert env["JOB"] == "two words\nand a line" and env["R"] == "0"
    assert env["ASCEND_GLOBAL_LOG_LEVEL"] == "3" and env["PATH"] == os.environ["PATH"]
    assert "SECRET_OF_THE_SESSION" not in env
    assert env["PYTHONUNBUFFERED"] == "1"


def test_progress_is_the_newest_whole_line_of_the_metrics(host: AgentHost) -> None:
    lines = r"""printf '{"step": 1}\n{"step": 2}\n{"st' > metrics/rank_0.jsonl; touch up; sleep 300"""
    host.launch(sh(lines))
    host.wait_up("up")
    eventually(lambda: host.status().ranks[0].progress.get("step") == 2)


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


def test_the_session_may_end_before_the_run(host: AgentHost) -> None:
    host.launch(sh("echo $$ > up; exec sleep 300"))
    worker = host.escaped("up")
    host.session.close()
    host.session = host.new_session()
    assert is_alive(worker) and host.states() == ["running"]


@pytest.mark.parametrize("label", ["rank_9", "../manifest.json", "../logs/rank_0"])
def test_read_log_reads_logs_only(host: AgentHost, label: str) -> None:
    host.launch(sh("echo x"))
    host.wait_over()
    answer = host.session.call_with_data("read_log", run_id=RUN, label=label, offset=0, limit=9)
    assert answer == ({"offset": 0, "size": 0}, b"")


def test_a_whole_run_under_the_oldest_python(tmp_path: Path) -> None:
    python = python_of("3.8")
    if python is None:
        pytest.skip("no python3.8 on this machine")
    host = AgentHost(tmp_path, python)
    try:
        host.launch(("{python}", "-V"), sh("sleep 300"))
        host.tell("stop", reason="enough")
        assert host.wait_over().stop in (StopReason.requested("enough"), None)
        assert host.session.call("probe")["python"].startswith("3.8.")
    finally:
        host.close()


@pytest.mark.parametrize(
    ("name", "gone"), [("rank_table", False), ("worker_config", False), ("rank_table", True)]
)
def test_a_file_that_changed_after_it_was_compared_is_not_started_with(
    host: AgentHost, name: str, gone: bool
) -> None:
    host.prepare(host.manifest(sh("true")), rank_table="{}")
    if gone:
        getattr(host.run_dir().attempt, name).unlink()
    else:
        getattr(host.run_dir().attempt, name).write_text("other")
    with pytest.raises(AgentError, match="has changed since it was prepared") as caught:
        host.tell("start")
    assert caught.value.kind == "refused"
    host.tell("undo")
    assert not host.run_dir().root.exists()
