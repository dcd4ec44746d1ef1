"""A watched run, through a real agent and a real supervisor: real processes, sockets and signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.agent import control_socket
from orchestrator.agent.processes import is_alive, state_of
from orchestrator.agent.status_file import StatusFile
from orchestrator.agent.supervisor import INTERVAL, Supervisor
from orchestrator.agent.supervisor_state import Start
from orchestrator.core.push import OF_FILES, Beat, Change, Digest, Mark, Snapshot
from orchestrator.core.records import RankStatus, StallKind
from orchestrator.testing.agent_host import RUN, AgentHost, sh
from orchestrator.testing.waiting import eventually
from tests.agent.watching import Watching

SLEEP = ("sleep", "300")
STEPS = sh('i=0; while :; do i=$((i+1)); echo "{\\"step\\": $i}" >>metrics/rank_0.jsonl; sleep 0.2; done')


@pytest.fixture
def watching(host: AgentHost) -> Iterator[Watching]:
    agent = Watching(host.workdir.root)
    yield agent
    agent.close()


def is_over(event: object) -> bool:
    return isinstance(event, Snapshot) and event.status.is_over


def ended(event: object) -> bool:
    return isinstance(event, Change) and any(rank.end is not None for rank in event.ranks)


def test_an_end_is_told_at_once_and_the_run_is_over_when_nothing_is_left(
    host: AgentHost, watching: Watching
) -> None:
    host.launch(SLEEP, sh("while [ ! -e go ]; do sleep 0.01; done; echo so it ends; exit 3"))
    answer = watching.watch(RUN)
    first = watching.next()
    assert isinstance(first, Snapshot) and first.sequence == answer["sequence"] < OF_FILES
    assert first.supervisor == first.status.supervisor == host.status().supervisor
    (host.run_dir().root / "go").touch()
    made = time.time()
    *_, change = watching.until(ended)
    assert time.time() - made < 0.9, "it waits for no tick"
    (rank,) = [each for each in change.ranks if each.rank == 1]
    assert rank.end is not None and rank.end.exit_code == 3 and rank.end.tail == ("so it ends",)
    assert change.failed_first == 1 and change.phase == "stopping"
    events = watching.until(is_over)
    last = events[-1]
    assert last.supervisor is None and last.sequence >= OF_FILES
    assert [str(each.state) for each in last.status.ranks] == ["stopped", "failed"]
    assert not is_alive(last.status.guardian) and host.busy(0, 1) == []
    # Until then the devices are not free, and nobody says so.
    told = [event.phase for event in events if isinstance(event, Change)]
    assert "over" not in told


def test_steps_come_as_digests_and_other_verbs_are_answered_meanwhile(
    host: AgentHost, watching: Watching
) -> None:
    host.launch(STEPS, SLEEP)
    watching.watch(RUN, every=0.1)
    digests = []
    while len(digests) < 2:
        event = watching.next()
        assert watching.ask("status", run_id=RUN)["run_id"] == RUN
        if isinstance(event, Digest):
            digests.append(event)
    highs = [digest.high for digest in digests]
    assert highs == sorted(set(highs)) and digests[-1].steps == {"1": 0} and digests[-1].rank == 0
    assert digests[-1].numbers["step"] == highs[-1] and "first" in digests[-1].numbers
    assert digests[-1].seconds is not None and 0.1 < digests[-1].seconds < 1.0


def test_who_comes_back_hears_nothing_twice(host: AgentHost, watching: Watching) -> None:
    host.launch(SLEEP)
    watching.watch(RUN)
    first = watching.next()
    watching.watch(RUN, Mark(first.supervisor, first.sequence), beat=0.3)
    assert isinstance(watching.next(), Beat)
    other = Watching(host.workdir.root)
    try:
        other.watch(RUN, Mark(first.supervisor, first.sequence), beat=0.3)
        assert isinstance(other.next(), Beat)
        other.watch(RUN, Mark(first.supervisor, first.sequence + 5))
        assert isinstance(other.next(), Snapshot)
    finally:
        other.close()


def test_a_stopped_worker_is_told_and_so_is_that_it_goes_on(tmp_path: Path) -> None:
    """A real process, and a clock of the test's."""
    host = AgentHost(tmp_path / "host")
    run, now = host.run_dir(), [100.0]
    run.make()
    file = StatusFile(run.status, run.runs)
    supervisor = Supervisor(host.manifest(SLEEP), run, clock=lambda: now[0], wall_clock=lambda: now[0])
    for action in supervisor.state.start(now[0]):
        assert isinstance(action, Start)
        supervisor._start(action.rank, supervisor._workers[action.rank])
    supervisor.state.commit()

    def live(seconds: int) -> RankStatus:
        for _ in range(seconds):
            now[0] += 1.0
            supervisor.step()
        return file.read().ranks[0]

    def has_ended() -> bool:
        supervisor.step()
        return supervisor.state.has_ended

    worker = supervisor.state.workers[0].process
    assert worker is not None
    try:
        assert live(3).stalled is None
        os.kill(worker.pid, signal.SIGSTOP)
        eventually(lambda: state_of(worker.pid) == "T")
        sequence = supervisor.feed.sequence
        rank = live(12)
        assert (rank.stalled, rank.stalled_since) == (StallKind.STOPPED, 104.0)
        assert supervisor.feed.sequence == sequence + 1
        os.kill(worker.pid, signal.SIGCONT)
        eventually(lambda: state_of(worker.pid) == "S")
        rank = live(1)
        assert rank.stalled is None and supervisor.feed.sequence == sequence + 2
        live(25)  # in which nothing is new
        assert now[0] - file.read().updated <= INTERVAL and supervisor.feed.sequence == sequence + 2
    finally:
        os.kill(worker.pid, signal.SIGKILL)
        eventually(has_ended)
        shutil.rmtree(run.root)  # before anybody takes this process for a supervisor
        host.close()


@pytest.mark.parametrize("signals", [("supervisor",), ("supervisor", "guardian")], ids=["one", "both"])
def test_a_supervisor_killed_while_it_is_watched_leaves_no_stale_word(
    host: AgentHost, watching: Watching, signals: tuple[str, ...]
) -> None:
    host.launch(SLEEP, SLEEP)
    watching.watch(RUN)
    status = watching.next().status
    for name in signals:
        os.kill(getattr(status, name).pid, signal.SIGKILL)
    events = watching.until(is_over)
    # Before its guardian is gone too it may be told how the ranks have ended, and never that they run.
    for told in (event.status for event in events if isinstance(event, Snapshot)):
        assert all(rank.state.is_terminal for rank in told.ranks)
    last = events[-1]
    assert last.supervisor is None and {str(rank.state) for rank in last.status.ranks} <= {"failed", "lost"}
    assert watching.ask("status", run_id=RUN)["phase"] == "over"


def test_a_supervisor_that_hangs_is_looked_past_and_taken_up_again(
    host: AgentHost, watching: Watching
) -> None:
    host.launch(SLEEP)
    watching.watch(RUN, beat=0.2)
    supervisor = watching.next().supervisor
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        *_, told = watching.until(lambda event: isinstance(event, Snapshot))
        assert told.sequence >= OF_FILES and told.supervisor == supervisor
        assert watching.ask("clock") > 0  # the session does not hang with it
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    *_, told = watching.until(lambda event: isinstance(event, Snapshot) and event.sequence < OF_FILES)
    host.tell("stop", reason="enough")
    watching.until(is_over)


def test_one_that_hangs_from_the_beginning_is_watched_by_its_files(
    host: AgentHost, watching: Watching
) -> None:
    host.launch(SLEEP)
    supervisor = host.status().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        assert watching.watch(RUN)["sequence"] >= OF_FILES
        assert watching.next().sequence >= OF_FILES
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    host.tell("stop", reason="enough")
    watching.until(is_over)


def test_a_run_that_has_ended_is_told_as_its_files_have_it(host: AgentHost, watching: Watching) -> None:
    host.launch(sh("exit 5"))
    host.wait_over()
    assert watching.watch(RUN, beat=0.2)["sequence"] >= OF_FILES
    first, second = watching.next(), watching.next()
    assert is_over(first) and first.supervisor is None and isinstance(second, Beat)


def test_a_run_that_is_not_there_or_goes_away(host: AgentHost, watching: Watching) -> None:
    assert watching.watch("none")["kind"] == "no_run"
    host.launch(SLEEP)
    watching.watch(RUN)
    host.tell("undo")
    *_, gone = watching.until(lambda event: isinstance(event, dict))
    assert gone["event"] == "gone" and gone["data"]["kind"] == "no_run"
    assert watching.ask("clock") > 0


def test_arguments_that_make_no_sense(host: AgentHost, watching: Watching) -> None:
    host.launch(SLEEP)
    odd: list[dict[str, object]] = [
        {"every": -1e400},
        {"beat": "x"},
        {"since": 3},
        {"since": {"sequence": 1}},
    ]
    for args in odd:
        told = watching.ask("watch", **{"run_id": RUN, "since": None, "every": 1.0, "beat": 1.0, **args})
        assert told["kind"] == "internal"
    assert isinstance(watching.watch(RUN)["sequence"], int)


def test_a_reader_that_takes_nothing_holds_nobody_up(host: AgentHost) -> None:
    """Its line is full, of events of some size: the others hear of an end all the same, and at once."""
    reason = "x" * 40_000  # in every status from now on
    host.launch(sh("trap '' TERM; touch up; while [ ! -e go ]; do sleep 0.01; done"), SLEEP, grace=60.0)
    host.wait_up("up")
    path = host.run_dir().control_socket
    request = {"verb": "watch", "run_id": RUN, "since": None, "every": 0.05, "beat": 0.05}
    deaf = [control_socket.connect(path, 5.0) for _ in range(5)]
    for connection in deaf:
        control_socket.reply(connection, request)
    host.tell("stop", reason=reason)
    heard = control_socket.connect(path, 5.0)
    control_socket.reply(heard, request)
    lines = heard.makefile("rb")
    assert "sequence" in json.loads(lines.readline())
    assert json.loads(lines.readline())["event"] == "snapshot"
    time.sleep(1.0)  # beats go into the lines of those who do not read
    (host.run_dir().root / "go").touch()
    made = time.monotonic()
    while json.loads(lines.readline())["event"] != "change":
        pass
    assert time.monotonic() - made < 0.9
    for connection in (*deaf, heard):
        connection.close()
    host.wait_over()


def test_a_metrics_line_that_is_nested_deep_ends_no_supervisor(host: AgentHost, watching: Watching) -> None:
    deep = "[" * 900 + "]" * 900
    host.launch(sh(f'echo \'{{"step": 7, "odd": {deep}, "more": [[1]]}}\' >metrics/rank_0.jsonl; sleep 300'))
    watching.watch(RUN)
    *_, told = watching.until(lambda event: getattr(event, "numbers", {}).get("step") == 7)
    assert told.numbers == {"step": 7, "more": [[1]], "first": {"step": 7}}


def test_an_agent_that_tells_much_and_hears_nothing_ends_by_itself(host: AgentHost) -> None:
    """Its connection died: what it passes on is no sign that anybody takes it."""
    host.launch(SLEEP)
    program = (
        "import sys; from _signal import alarm; from orchestrator.agent import request_loop as loop; "
        "loop.serve(sys.argv[1], loop._Stdin(), sys.stdout.buffer, lambda seconds: alarm(seconds and 2))"
    )
    watching = Watching(host.workdir.root, program)
    try:
        watching.watch(RUN, beat=0.1)
        watching.next()
        assert isinstance(watching.next(), Beat)
        assert watching.process.wait(60) == -signal.SIGALRM
    finally:
        watching.close()


def test_peers_that_say_nothing_or_nonsense_hold_nobody_up(host: AgentHost) -> None:
    host.launch(SLEEP)
    path = host.run_dir().control_socket
    silent = [control_socket.connect(path, 5.0) for _ in range(10)]
    for said in (
        b"nonsense\n",
        b"[]\n",
        b"{}\n",
        b'{"verb": "dance"}\n',
        b"[" * 5000 + b"\n",
        b"x" * (1 << 21),
    ):
        with control_socket.connect(path, 5.0) as connection:
            try:
                connection.sendall(said)
                assert connection.recv(100) == b""
            except (BrokenPipeError, ConnectionResetError):
                pass
    began = time.monotonic()
    assert host.tell("commit")["phase"] == "committed"
    assert time.monotonic() - began < 1.5
    for connection in silent:
        assert connection.recv(100) == b""  # dropped after a while
        connection.close()


def test_an_idle_supervisor_writes_seldom_and_computes_next_to_nothing(host: AgentHost) -> None:
    host.launch(*[SLEEP] * 8)
    supervisor = host.status().supervisor
    assert supervisor is not None

    def cpu() -> int:
        fields = Path(f"/proc/{supervisor.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    eventually(lambda: host.status().phase == "committed")
    before, updated = cpu(), host.status().updated
    time.sleep(1.5)
    assert cpu() - before <= 4  # of 150 hundredths
    now = host.status()
    assert now.updated == updated and now.interval is not None and now.interval >= 5
