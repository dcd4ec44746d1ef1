"""A later attempt of a run on one host: what it takes over, and that its undoing touches no other's bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent import attempt_guard, host_runs
from orchestrator.core.claims import Tombstone
from orchestrator.core.codec import to_json
from orchestrator.core.ends import StopKind
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import Workdir
from orchestrator.core.records import Attempt, Claim, Input, Manifest, ProcessId
from orchestrator.testing.agent_host import RUN, AgentHost, processes_in, sh
from orchestrator.testing.waiting import eventually

FIRST, SECOND, OTHER = Attempt(1, "aa"), Attempt(2, "bb"), Attempt(2, "cc")
OURS, THEIRS = Claim(1, "me@here"), Claim(2, "you@there")
STAY = sh("echo $$ > up_; exec sleep 300")
WRITES = sh(
    "echo one > checkpoint/shard; echo '{\"step\": 3}' > metrics/rank_0.jsonl; echo said; "
    "mkdir -p answers; echo mine > kept.txt; exit 3"
)


def prepare(host: AgentHost, manifest: Manifest, claim: Claim | None = None) -> Any:
    bundle = {"manifest": to_json(manifest), "worker_config": "a: 1\n", "rank_table": None}
    args = {} if claim is None else {"claim": to_json(claim)}
    return host.session.call("prepare", payload=json.dumps(bundle).encode(), **args)


def of(attempt: Attempt, claim: Claim | None = None) -> dict[str, Any]:
    """The arguments of a request that means this attempt."""
    return {"meant": to_json(attempt), **({} if claim is None else {"claim": to_json(claim)})}


def files(host: AgentHost) -> dict[str, str]:
    """The hash of every file of the run, but of what all attempts have in common."""
    root = host.run_dir().root
    common = {"supervisor.log", "claim.json", "tombstone.json"}
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.name not in common
    }


def store(host: AgentHost, data: bytes, path: str) -> Input:
    sha256 = hashlib.sha256(data).hexdigest()
    host.session.call("push", payload=data, sha256=sha256, size=len(data))
    return Input(path, sha256)


@pytest.fixture
def failed(host: AgentHost) -> AgentHost:
    """A host whose run has failed in its first attempt."""
    script = store(host, b"print(1)\n", "code/script.py")
    host.launch(WRITES, attempt=FIRST, inputs=(script,))
    host.wait_over()
    return host


def second(host: AgentHost, *commands: tuple[str, ...], **changes: Any) -> Manifest:
    manifest = host.manifest(*(commands or (STAY,)), **{"attempt": SECOND, **changes})
    prepare(host, manifest)
    return manifest


def killed(host: AgentHost) -> None:
    """Supervisor and guardian are gone without a word, as where the host has lost its power."""
    status = host.status()
    guardian = status.guardian
    assert guardian is not None and status.supervisor is not None
    os.kill(guardian.pid, signal.SIGSTOP)  # so that it says nothing in between
    for process in (status.supervisor, guardian):
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: host.busy(0) == [])


def prepared(host: AgentHost) -> None:
    second(host)


def started(host: AgentHost) -> None:
    second(host)
    host.tell("start", **of(SECOND))


def committed(host: AgentHost) -> None:
    started(host)
    host.tell("commit", **of(SECOND))


def over(host: AgentHost) -> None:
    second(host, sh("echo two > checkpoint/shard; echo other; exit 4"))
    host.tell("start", **of(SECOND))
    host.tell("commit", **of(SECOND))
    host.wait_over()


def lapsed(host: AgentHost) -> None:
    second(host, lease=0.3)
    eventually(lambda: host.run_dir().in_force == 1, what="undone by itself")


def without_power(host: AgentHost) -> None:
    started(host)
    killed(host)


def half_made(host: AgentHost) -> None:
    host.run_dir().make(SECOND.number, SECOND.token, files={"manifest.json": "{}"})


PHASES = [prepared, started, committed, over, lapsed, without_power, half_made]


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_the_undoing_of_a_second_attempt_brings_the_first_back(
    failed: AgentHost, phase: Callable[[AgentHost], None]
) -> None:
    before, status = files(failed), failed.status()
    phase(failed)
    failed.tell("undo", **of(SECOND))
    run = failed.run_dir()
    assert run.in_force == 1 and run.numbers() == [1]
    after = files(failed)
    after.pop("up_", None)  # of the second's workers, in the folder that is common to all
    assert after == before
    assert failed.status().ranks == status.ranks and failed.status().is_over
    assert (run.root / "checkpoint/shard").read_text() == "one\n"
    assert not processes_in(run.root) and failed.busy(0) == []
    failed.tell("undo", **of(SECOND))  # again, as after a broken connection
    assert run.in_force == 1 and (run.root / "checkpoint/shard").exists()


def test_a_second_attempt_has_folders_of_its_own_and_the_same_working_directory(failed: AgentHost) -> None:
    over(failed)
    run = failed.run_dir()
    assert (run.folder_of(1) / "checkpoint/shard").read_text() == "one\n"
    assert (run.folder_of(2) / "checkpoint/shard").read_text() == "two\n"
    assert (run.root / "kept.txt").read_text() == "mine\n"
    assert failed.status().attempt == SECOND
    for attempt, said in ((FIRST, b"said\n"), (SECOND, b"other\n")):
        args = {"run_id": RUN, "label": "rank_0", "offset": 0, "limit": 99, **of(attempt)}
        assert failed.session.call_with_data("read_log", **args)[1] == said
    codes = [rank.end.exit_code for rank in failed.status().ranks if rank.end]
    assert codes == [4]
    events = [len((path / "events.jsonl").read_text().splitlines()) for path in (run.folder_of(1), run.root)]
    assert min(events) >= 2


def test_a_prepare_that_fails_leaves_the_first_attempt_as_it_was(failed: AgentHost) -> None:
    before = files(failed)
    with pytest.raises(AgentError) as caught:
        second(failed, inputs=(Input("x", "0" * 64),))
    assert caught.value.kind == "missing_input"
    assert files(failed) == before and failed.run_dir().in_force == 1 and failed.busy(0) == []


def test_devices_that_another_run_holds_leave_the_first_attempt_as_it_was(failed: AgentHost) -> None:
    before = files(failed)
    failed.launch(sh("exec sleep 300"), run_id="run-2")
    with pytest.raises(AgentError) as caught:
        second(failed)
    assert caught.value.kind == "device_busy"
    assert files(failed) == before and failed.run_dir().in_force == 1


def test_what_a_second_attempt_brings_replaces_only_what_differs_and_comes_back(failed: AgentHost) -> None:
    run, before = failed.run_dir(), files(failed)
    changed = store(failed, b"print(2)\n", "code/script.py")
    new = store(failed, b"new\n", "code/deep/new.txt")
    second(failed, inputs=(changed, new))
    assert (run.root / "code/script.py").read_bytes() == b"print(2)\n"
    assert (run.root / "code/deep/new.txt").exists()
    failed.tell("undo", **of(SECOND))
    assert files(failed) == before


def test_what_is_equal_is_not_written_again(failed: AgentHost) -> None:
    path = failed.run_dir().root / "code/script.py"
    before = path.stat()
    second(failed, inputs=(store(failed, b"print(1)\n", "code/script.py"),))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_link_that_a_worker_has_put_in_the_place_of_its_input_is_not_followed(
    failed: AgentHost, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("not ours")
    path = failed.run_dir().root / "code/script.py"
    path.unlink()
    path.symlink_to(outside)
    second(failed, inputs=(store(failed, b"print(1)\n", "code/script.py"),))
    assert path.read_bytes() == b"print(1)\n" and outside.read_text() == "not ours"
    failed.tell("undo", **of(SECOND))
    assert os.readlink(path) == str(outside)


def test_a_folder_that_a_program_has_put_in_the_place_of_a_link_is_the_first_attempts(
    host: AgentHost,
) -> None:
    host.launch(sh("rm checkpoint; mkdir checkpoint; echo one > checkpoint/shard"), attempt=FIRST)
    host.wait_over()
    run = host.run_dir()
    second(host)
    assert (run.folder_of(1) / "checkpoint/shard").read_text() == "one\n"
    assert os.listdir(run.root / "checkpoint") == []
    host.tell("undo", **of(SECOND))
    assert (run.root / "checkpoint/shard").read_text() == "one\n"


def test_what_writes_on_while_it_is_undone_reaches_nothing_of_the_first(failed: AgentHost) -> None:
    before = files(failed)
    writes = "while :; do echo x > logs/rank_0.log; echo x > checkpoint/shard; done"
    second(failed, sh(f"(setsid sh -c '{writes}' &); echo $$ > up; trap '' TERM; {writes}"))
    failed.tell("start", **of(SECOND))
    failed.wait_file("up")
    failed.tell("undo", **of(SECOND))
    after = files(failed)
    after.pop("up")
    assert after == before


def test_a_host_that_never_had_the_run_has_it_from_its_second_attempt_on(host: AgentHost) -> None:
    committed(host)
    assert host.status().attempt == SECOND and host.run_dir().numbers() == [2]
    host.tell("undo", **of(SECOND))
    assert not host.run_dir().root.exists() and host.busy(0) == []


def test_no_attempt_is_made_while_the_one_before_runs(host: AgentHost) -> None:
    host.launch(STAY, attempt=FIRST)
    with pytest.raises(AgentError, match="attempt 1 of run run-1 still runs here") as caught:
        second(host, devices=(5,))
    assert caught.value.kind == "still_running"
    assert host.states() == ["running"] and host.run_dir().numbers() == [1]


def test_the_same_attempt_twice_is_refused(failed: AgentHost) -> None:
    second(failed)
    with pytest.raises(AgentError) as caught:
        second(failed)
    assert caught.value.kind == "run_exists" and failed.status().phase == "prepared"


def test_nobody_undoes_the_attempt_of_another(failed: AgentHost) -> None:
    committed(failed)
    for other in (OTHER, FIRST, Attempt(3, "dd")):
        failed.tell("undo", **of(other))
    assert failed.status().phase == "committed" and failed.status().attempt == SECOND


def test_what_is_left_of_a_launch_without_power_makes_way_for_another(failed: AgentHost) -> None:
    before = files(failed)
    without_power(failed)
    prepare(failed, failed.manifest(STAY, attempt=OTHER))
    assert failed.status().attempt == OTHER and failed.run_dir().numbers() == [1, 2]
    failed.tell("undo", **of(OTHER))
    after = files(failed)
    after.pop("up_", None)
    assert after == before


def test_what_an_agent_has_left_that_died_in_the_middle_of_making_it_makes_way(failed: AgentHost) -> None:
    before, run = files(failed), failed.run_dir()
    run.make(2, SECOND.token, files={"manifest.json": "{}"})
    run.put_in_force(1)  # as before it was in force
    with pytest.raises(AgentError, match="just being made"):  # perhaps somebody else is at it
        prepare(failed, failed.manifest(STAY, attempt=OTHER))
    os.utime(run.folder_of(2), (wrong := time.time() + 86400, wrong))  # a clock that was set back since
    prepare(failed, failed.manifest(STAY, attempt=OTHER))
    assert failed.status().attempt == OTHER and run.numbers() == [1, 2]
    failed.tell("undo", **of(OTHER))
    assert files(failed) == before and failed.status().is_over and run.numbers() == [1]


def test_what_cannot_be_removed_of_an_attempt_is_in_the_way_of_no_other(
    failed: AgentHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    second(failed)
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)  # as NFS with an open file
    run = failed.run_dir()
    assert run.discard(2, SECOND.token) and run.in_force == 1 and run.numbers() == [1, 2]
    os.utime(run.folder_of(2), (0, 0))
    attempt_guard.require_room(Workdir(run.runs.parent), RUN, OTHER)
    run.make(2, OTHER.token)


@pytest.mark.parametrize("ours", [True, False])
def test_a_launch_that_came_to_nothing_elsewhere_makes_way_for_the_next_of_its_claim(
    failed: AgentHost, ours: bool
) -> None:
    """This host was committed, and could not be told that it is undone; another claim's is left alone."""
    before = files(failed)
    prepare(failed, failed.manifest(STAY, attempt=SECOND), OURS)
    failed.tell("start", **of(SECOND, OURS))
    failed.tell("commit", **of(SECOND, OURS))
    failed.wait_file("up_")
    again = failed.manifest(STAY, attempt=OTHER)
    if not ours:
        with pytest.raises(AgentError) as caught:
            prepare(failed, again, THEIRS)
        assert caught.value.kind == "still_running" and failed.status().attempt == SECOND
        return
    prepare(failed, again, OURS)
    assert (failed.status().attempt, failed.status().phase) == (OTHER, "prepared")
    failed.tell("undo", **of(OTHER, OURS))
    after = files(failed)
    after.pop("up_", None)
    assert after == before


def test_an_attempt_that_has_run_makes_way_for_none_of_its_number(failed: AgentHost) -> None:
    over(failed)
    with pytest.raises(AgentError) as caught:
        prepare(failed, failed.manifest(STAY, attempt=OTHER))
    assert caught.value.kind == "run_exists" and failed.status().attempt == SECOND
    with pytest.raises(AgentError) as caught:
        prepare(failed, failed.manifest(STAY, attempt=Attempt(1, "zz")))
    assert caught.value.kind == "run_exists"


def test_a_host_without_power_between_start_and_commit_is_told_as_failed(failed: AgentHost) -> None:
    without_power(failed)
    status = failed.status()
    assert status.is_over and status.stop is not None and status.stop.kind is StopKind.SUPERVISOR_GONE
    assert [str(rank.state) for rank in status.ranks] == ["lost"]


# Who may act.


def test_who_acts_with_an_older_claim_is_refused_and_told_who_holds_it(host: AgentHost) -> None:
    prepare(host, host.manifest(STAY, attempt=FIRST), OURS)
    host.tell("start", **of(FIRST, OURS))
    host.tell("commit", **of(FIRST, OURS))
    assert host.session.call("claim", run_id=RUN) == to_json(OURS)
    assert host.session.call("claim", run_id=RUN, take=to_json(THEIRS)) == to_json(THEIRS)
    for verb in ("stop", "undo", "remove_run"):
        args = {"dry_run": True} if verb == "remove_run" else {}
        with pytest.raises(AgentError, match="is in the hands of you@there") as caught:
            host.tell(verb, **of(FIRST, OURS), **args)
        assert caught.value.kind == "claim"
    with pytest.raises(AgentError) as caught:
        host.tell("stop", **of(FIRST))  # who only watches
    assert caught.value.kind == "claim" and host.states() == ["running"]
    assert host.session.call("status", run_id=RUN, **of(FIRST, OURS))["phase"] == "committed"
    host.tell("stop", reason="mine now", **of(FIRST, THEIRS))
    host.wait_over()


@pytest.mark.parametrize("claim", [OURS, Claim(2, "me@here"), Claim(0)])
def test_a_claim_is_taken_only_by_a_higher_one(host: AgentHost, claim: Claim) -> None:
    prepare(host, host.manifest(STAY, attempt=FIRST), THEIRS)
    with pytest.raises(AgentError, match="you@there") as caught:
        host.session.call("claim", run_id=RUN, take=to_json(claim))
    assert caught.value.kind == "claim"
    (told,) = host.session.call("list_runs")
    assert (told["epoch"], told["holder"]) == (2, "you@there")


def test_a_next_attempt_needs_the_claim(failed: AgentHost) -> None:
    failed.session.call("claim", run_id=RUN, take=to_json(THEIRS))
    before = files(failed)
    with pytest.raises(AgentError) as caught:
        prepare(failed, failed.manifest(STAY, attempt=SECOND), OURS)
    assert caught.value.kind == "claim" and files(failed) == before


# What is over.


@pytest.fixture
def running(host: AgentHost) -> AgentHost:
    prepare(host, host.manifest(STAY, attempt=FIRST), OURS)
    host.tell("start", **of(FIRST, OURS))
    host.tell("commit", **of(FIRST, OURS))
    host.wait_file("up_")
    return host


def dead(host: AgentHost, worker: ProcessId) -> bool:
    from orchestrator.agent.processes import is_alive

    return not is_alive(worker) and host.busy(0) == []


def test_whoever_means_a_later_attempt_ends_the_one_that_runs(running: AgentHost) -> None:
    worker = running.escaped("up_")
    with pytest.raises(AgentError, match="no attempt 2 of run run-1") as caught:
        running.session.call("status", run_id=RUN, **of(SECOND, OURS))
    assert caught.value.kind == "no_run"
    eventually(lambda: dead(running, worker), what="the first attempt is dead")
    (told,) = running.session.call("list_runs")
    assert told["over"] == 1


@pytest.mark.parametrize("verb", ["read_log", "watch"])
def test_any_verb_tells_a_host_that_its_run_has_ended(running: AgentHost, verb: str) -> None:
    worker = running.escaped("up_")
    args: dict[str, Any] = {"label": "rank_0", "offset": 0, "limit": 9, "every": 1.0, "beat": 9.0}
    running.session.call_with_data(verb, run_id=RUN, over="failed", **args, **of(FIRST, OURS))
    eventually(lambda: dead(running, worker), what="the attempt that is over is dead")
    stone = host_runs.known_tombstone(running.run_dir())
    assert stone is not None and (stone.attempt, stone.state) == (FIRST, "failed")


def test_who_has_lost_the_claim_ends_nothing(running: AgentHost) -> None:
    running.session.call("claim", run_id=RUN, take=to_json(THEIRS))
    args = {"label": "rank_0", "offset": 0, "limit": 9}
    running.session.call_with_data("read_log", run_id=RUN, over="failed", **args, **of(FIRST, OURS))
    with pytest.raises(AgentError):
        running.session.call("status", run_id=RUN, **of(SECOND, OURS))
    time.sleep(0.3)
    assert running.states() == ["running"]


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_over_is_ended_even_where_its_supervisor_is_stopped(running: AgentHost, frozen: bool) -> None:
    worker, supervisor = running.escaped("up_"), running.status().supervisor
    assert supervisor is not None
    if frozen:
        os.kill(supervisor.pid, signal.SIGSTOP)
    stone = Tombstone(RUN, FIRST, "failed", OURS, time.time())
    told = running.session.call("bury", run_id=RUN, stone=to_json(stone))
    assert told["phase"] == "over" and dead(running, worker)
    assert running.session.call("bury", run_id=RUN, stone=to_json(stone))["phase"] == "over"


def test_what_is_in_force_is_not_ended_by_the_tombstone_of_one_before(failed: AgentHost) -> None:
    committed(failed)
    for attempt in (FIRST, OTHER):
        with pytest.raises(AgentError) as caught:
            failed.session.call("bury", run_id=RUN, stone=to_json(Tombstone(RUN, attempt)))
        assert caught.value.kind == "newer_attempt"
    assert failed.status().phase == "committed"


@pytest.mark.parametrize("ours", [True, False])
def test_a_launch_that_came_to_nothing_is_ended_by_the_fence_of_the_next(
    failed: AgentHost, ours: bool
) -> None:
    # The next one runs on other hosts: this one is told only of what was before both.
    prepare(failed, failed.manifest(STAY, attempt=SECOND), OURS)
    failed.tell("start", **of(SECOND, OURS))
    failed.tell("commit", **of(SECOND, OURS))
    failed.wait_file("up_")
    claim = OURS if ours else THEIRS
    args = {"run_id": RUN, "stone": to_json(Tombstone(RUN, FIRST, "failed", claim)), **of(OTHER, claim)}
    if ours:
        assert failed.session.call("bury", **args)["phase"] == "over" and failed.busy(0) == []
        return
    with pytest.raises(AgentError) as caught:
        failed.session.call("bury", **args)
    assert caught.value.kind == "newer_attempt" and failed.states() == ["running"]


def test_who_has_lost_the_claim_hears_so_before_anything_of_attempts(failed: AgentHost) -> None:
    # Else it would take the later attempt of who acts now for one of its own, and begin another elsewhere.
    prepare(failed, failed.manifest(STAY, attempt=SECOND), THEIRS)
    with pytest.raises(AgentError, match="in the hands of you@there") as caught:
        failed.session.call("bury", run_id=RUN, stone=to_json(Tombstone(RUN, FIRST, "failed", OURS)))
    assert caught.value.kind == "claim" and failed.status().attempt == SECOND
