"""The monitor's socket: its verbs, who may not hold it up, and what is done where nobody answers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent import control_socket
from orchestrator.control.monitor_client import BEAT, Follower, newest_record, stop_by_monitor
from orchestrator.control.monitor_socket import MonitorSocket
from orchestrator.control.run_record import RunRecord, write_record
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RankState, RunState
from orchestrator.testing.waiting import eventually
from tests.control.recorded import control_in, failed, run_of, with_rank, with_view

BECAUSE = StopReason.requested("told by a test")


class FakeWatch:
    """Notes what it is told; on a stop it does what the test says."""

    def __init__(self, on_stop: Callable[[], None] = lambda: None) -> None:
        self.reasons: list[StopReason] = []
        self.viewers: list[int] = []
        self.woken = 0
        self.refusals: dict[str, OrchestrateError] = {}
        self._on_stop = on_stop

    def stop(self, reason: StopReason) -> None:
        self.reasons.append(reason)
        self._on_stop()

    def wake(self) -> None:
        self.woken += 1

    def set_viewers(self, count: int) -> None:
        self.viewers.append(count)


@pytest.fixture
def control(tmp_path: Path) -> ControlDir:
    return control_in(tmp_path)


@pytest.fixture
def server(control: ControlDir) -> Iterator[MonitorSocket]:
    made = MonitorSocket(control, grace=0.2, connect=0.1)
    assert made.open()
    yield made
    made.close()


def over(record: RunRecord, name: str) -> RunRecord:
    said = with_rank(record, name, state=RankState.STOPPED).hosts[name].status
    assert said is not None
    return with_view(record, name, status=dataclasses.replace(said, phase="over"), error="")


def asked(control: ControlDir, request: bytes) -> dict[str, Any]:
    """The first line of the answer to some bytes."""
    with control_socket.connect(control.monitor_socket, 5.0) as connection:
        connection.sendall(request)
        found: dict[str, Any] = json.loads(connection.makefile("rb").readline() or b"{}")
        return found


def test_only_the_account_itself_can_reach_it(control: ControlDir, server: MonitorSocket) -> None:
    mode = control.monitor_socket.stat().st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600


def test_the_record_is_that_of_now_and_not_that_on_disk(control: ControlDir, server: MonitorSocket) -> None:
    write_record(control, run_of(2))
    for record in (run_of(2), failed(run_of(2), "h1")):
        server.tell(record)
        assert newest_record(control) == record
    server.close()
    assert newest_record(control) is None and not control.monitor_socket.exists()


def test_a_run_is_followed_by_its_changes(control: ControlDir, server: MonitorSocket) -> None:
    watch = FakeWatch()
    server.attend(watch)
    first, second = run_of(2), failed(run_of(2), "h1")
    server.tell(first)
    with Follower(control, 0.1) as follower:
        assert follower.newest(0.0) == first and follower.is_told
        eventually(lambda: watch.viewers[-1] == 1)
        server.tell(second)
        seen = eventually(lambda: follower.newest() == second and follower.newest(0.0))
        assert seen.hosts["h0"] is follower.newest(0.0).hosts["h0"]
        ended = dataclasses.replace(second, state=RunState.FAILED)
        server.tell(ended)
        begun = time.monotonic()
        assert eventually(lambda: follower.newest(5.0) == ended)
        assert time.monotonic() - begun < 4
    eventually(lambda: watch.viewers[-1] == 0)


def test_who_follows_asks_the_disk_while_no_monitor_answers(control: ControlDir) -> None:
    write_record(control, run_of(2))
    with Follower(control, 0.05) as follower:
        assert follower.newest() == run_of(2) and not follower.is_told
        server = MonitorSocket(control, grace=1.0, connect=1.0)
        server.open()
        server.tell(failed(run_of(2), "h0"))
        eventually(lambda: follower.newest() == failed(run_of(2), "h0") and follower.is_told)
        server.close()
        eventually(lambda: follower.newest() == run_of(2) and not follower.is_told)


def test_a_follower_that_takes_nothing_holds_nobody_up_and_then_gets_the_newest(
    control: ControlDir, server: MonitorSocket
) -> None:
    """What it is sent is far more than the socket holds."""
    record = run_of(2, errors=("x" * 3_000_000,))
    server.tell(record)
    with control_socket.connect(control.monitor_socket, 5.0) as slow:
        slow.sendall(b'{"verb": "follow", "every": 0.1}\n')
        stream = slow.makefile("rb")
        assert stream.peek(1)  # it has begun, and cannot go on
        begun = time.monotonic()
        for turn in range(50):
            record = dataclasses.replace(record, errors=(f"turn {turn}: " + "x" * 1_000_000,))
            server.tell(record)
        assert time.monotonic() - begun < 5
        assert newest_record(control) == record
        lines = [json.loads(stream.readline()) for _ in range(2)]
        assert lines[0]["record"]["errors"] == ["x" * 3_000_000]
        assert lines[1]["set"] == [[["errors"], list(record.errors)]]  # what lay between was not kept for it


def test_followers_that_are_gone_are_counted_no_more(control: ControlDir, server: MonitorSocket) -> None:
    watch = FakeWatch()
    server.attend(watch)
    server.tell(run_of(2))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            line = stack.enter_context(control_socket.connect(control.monitor_socket, 5.0))
            line.sendall(b'{"verb": "follow", "every": 60}\n')
        eventually(lambda: watch.viewers[-1] == 3)
    eventually(lambda: watch.viewers[-1] == 0)
    later = FakeWatch()
    server.attend(later)
    assert later.viewers == [0]


@pytest.mark.parametrize(
    "request_",
    [
        b"\n",
        b"[]\n",
        b"{\n",
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"verb": "delete"}\n',
        b'{"verb": {}}\n',
        b'{"verb": "follow", "every": "often"}\n',
        b'{"verb": "follow", "every": NaN}\n',
        b'{"verb": "stop"}\n',
        b'{"verb": "stop", "reason": {"kind": "whim"}}\n',
        b'{"verb": "stop", "reason": 7}\n',
        b"x" * 200_000,
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_is_no_request_is_refused_and_stops_nothing(
    control: ControlDir, server: MonitorSocket, request_: bytes
) -> None:
    watch = FakeWatch()
    server.attend(watch)
    server.tell(run_of(2))
    assert "refused" in asked(control, request_)
    assert watch.reasons == [] and newest_record(control) == run_of(2)


def test_a_request_that_is_cut_is_nothing(control: ControlDir, server: MonitorSocket) -> None:
    server.tell(run_of(2))
    with control_socket.connect(control.monitor_socket, 5.0) as line:
        line.sendall(b'{"verb": "rec')
    assert newest_record(control) == run_of(2)


def test_more_than_can_be_served_are_hung_up_on(control: ControlDir, server: MonitorSocket) -> None:
    server.tell(run_of(2))
    lines = [control_socket.connect(control.monitor_socket, 5.0) for _ in range(64)]
    eventually(lambda: newest_record(control) is None)
    for line in lines:
        line.close()
    eventually(lambda: newest_record(control) == run_of(2))


# Stop.


def test_a_stop_says_who_is_over_host_by_host_and_then_the_record(
    control: ControlDir, server: MonitorSocket
) -> None:
    """h1 is over a while after h0; then the monitor judges, and ends."""
    first = over(run_of(2), "h0")
    ended = dataclasses.replace(over(first, "h1"), state=RunState.STOPPED, exit_code=5)

    def end() -> None:
        for record in (first, over(first, "h1"), ended):
            time.sleep(0.2)
            server.tell(record)

    watch = FakeWatch(on_stop=threading.Thread(target=end).start)
    server.attend(watch)
    server.tell(run_of(2))
    heard: list[str] = []
    found = stop_by_monitor(control, BECAUSE, heard.extend)
    assert found == (ended, {}) and heard == ["h0", "h1"]
    assert watch.reasons == [BECAUSE] and watch.woken == 1


def test_a_stop_names_a_host_that_cannot_be_reached_and_waits_for_the_others(
    control: ControlDir, server: MonitorSocket
) -> None:
    gone = with_view(run_of(3), "h1", error="h1: no route to host")
    watch = FakeWatch(on_stop=lambda: server.tell(over(over(gone, "h0"), "h2")))
    server._patience = 0.3
    server.attend(watch)
    server.tell(gone)
    found = stop_by_monitor(control, BECAUSE)
    assert found is not None
    (error,) = found[1].values()
    assert str(error) == "h1: no route to host" and error.exit_code == 3


def test_a_run_that_is_not_watched_yet_is_not_stopped_so(control: ControlDir, server: MonitorSocket) -> None:
    server.tell(run_of(2, RunState.PREPARING))
    assert stop_by_monitor(control, BECAUSE) is None
    watch = FakeWatch()
    server.attend(watch)
    assert stop_by_monitor(control, BECAUSE) is None and watch.reasons == []


def test_a_monitor_that_ends_before_the_run_does_has_not_stopped_it(control: ControlDir) -> None:
    server = MonitorSocket(control, grace=60.0, connect=1.0)
    server.open()
    server.attend(FakeWatch(on_stop=threading.Thread(target=server.close).start))
    server.tell(run_of(2))
    assert stop_by_monitor(control, BECAUSE) is None


def test_a_monitor_that_is_killed_while_a_stop_waits_leaves_it_soon(control: ControlDir) -> None:
    child = os.fork()
    if not child:  # a monitor whose hosts never end
        server = MonitorSocket(control, grace=60.0, connect=1.0)
        server.open()
        server.attend(FakeWatch(on_stop=lambda: server.tell(over(run_of(2), "h0"))))
        server.tell(run_of(2))
        time.sleep(60)
        os._exit(0)
    try:
        eventually(lambda: newest_record(control) == run_of(2))
        begun = time.monotonic()
        heard: list[str] = []

        def hear(names: list[str]) -> None:
            heard.extend(names)
            os.kill(child, signal.SIGKILL)

        assert stop_by_monitor(control, BECAUSE, hear) is None
        assert heard == ["h0"] and time.monotonic() - begun < 5
        assert control.monitor_socket.exists() and newest_record(control) is None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # The next one takes its place.
    server = MonitorSocket(control, grace=1.0, connect=1.0)
    assert server.open()
    server.tell(run_of(3))
    assert newest_record(control) == run_of(3)
    server.close()


# Paths and file systems.


def test_a_path_that_is_longer_than_a_sockets_address(tmp_path: Path) -> None:
    control = control_in(tmp_path / ("long" * 30) / ("longer" * 20), "r" * 100)
    assert len(str(control.monitor_socket)) > 400
    server = MonitorSocket(control, grace=1.0, connect=1.0)
    assert server.open()
    server.tell(run_of(2))
    assert newest_record(control) == run_of(2)
    server.close()
    assert not control.monitor_socket.exists()


def test_where_no_socket_can_be_made_that_is_logged_and_nothing_else(
    control: ControlDir, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as on some network file systems; here a folder is in its place."""
    (control.monitor_socket / "x").mkdir(parents=True)
    server = MonitorSocket(control, grace=1.0, connect=1.0)
    assert not server.open() and not server.is_open
    assert "no socket can be made in" in caplog.text
    server.tell(run_of(2))
    write_record(control, run_of(2))
    with Follower(control, 0.0) as follower:
        assert follower.newest() == run_of(2)
    server.close()


def test_a_link_in_the_place_of_the_socket_is_not_followed(control: ControlDir, tmp_path: Path) -> None:
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(tmp_path / "other"))
    other.listen()
    control.monitor_socket.symlink_to(tmp_path / "other")
    assert newest_record(control) is None
    other.close()


def test_who_wants_to_hear_seldom_hears_all_the_same_that_the_monitor_lives(
    control: ControlDir, server: MonitorSocket
) -> None:
    """Else it would be taken for one that hangs; and no clock of the system goes up to any number."""
    server.tell(run_of(2))
    with contextlib.ExitStack() as stack:
        lines = []
        for every in (b"60", b"1e300"):
            link = stack.enter_context(control_socket.connect(control.monitor_socket, 5.0 + BEAT))
            link.sendall(b'{"verb": "follow", "every": %s}\n' % every)
            lines.append(link.makefile("rb"))
        for line in lines:
            assert "record" in json.loads(line.readline())
        for line in lines:
            assert json.loads(line.readline()) == {"format": 1}


def test_a_stop_that_the_watch_does_not_take_up_is_left_to_who_asked(control: ControlDir) -> None:
    """Its threads answered as if it lived, and in the end accused hosts that nobody had told."""
    server = MonitorSocket(control, grace=30.0, connect=0.1, turn=0.2)
    assert server.open()
    try:
        server.tell(run_of(2))
        server.attend(watch := FakeWatch())
        assert stop_by_monitor(control, BECAUSE) is None
        assert watch.reasons == [BECAUSE]
    finally:
        server.close()


def test_a_view_that_draws_slowly_is_shown_the_newest(control: ControlDir, server: MonitorSocket) -> None:
    """It took a line at each look, and fell behind by what drawing took."""
    record = run_of(2)
    server.tell(record)
    with Follower(control, 0.1) as follower:
        follower.newest()
        for number in range(20):
            server.tell(dataclasses.replace(record, phase=f"phase {number}"))
            time.sleep(0.11)
        told = len(server_lines(follower))
        assert told > 5 and follower.newest(0.0).phase == "phase 19"


def server_lines(follower: Follower) -> list[bytes]:
    """What waits in its socket, once the last of it is there."""
    assert follower._line is not None
    connection = follower._line._connection

    def waiting() -> bytes:
        connection.settimeout(1.0)
        return connection.recv(1 << 20, socket.MSG_PEEK)

    return eventually(lambda: found if b"phase 19" in (found := waiting()) else b"").splitlines()


def test_an_end_that_is_on_no_disk_is_told_to_who_comes_then(
    control: ControlDir, server: MonitorSocket
) -> None:
    write_record(control, run_of(2))
    server.tell(dataclasses.replace(run_of(2), state=RunState.STOPPED, ended=5.0))
    with Follower(control, 0.1) as follower:
        assert follower.newest().state is RunState.STOPPED
        assert follower.newest().state is RunState.STOPPED


def test_who_stops_a_run_is_told_how_long_its_ranks_may_save(
    control: ControlDir, server: MonitorSocket
) -> None:
    said = run_of(2).hosts["h0"].status
    assert said is not None
    ranks = tuple(dataclasses.replace(rank, can=("save",)) for rank in said.ranks)
    stopping = dataclasses.replace(said, ranks=ranks, phase="stopping", stop=BECAUSE, grace=45.0)
    saves = with_view(over(run_of(2), "h1"), "h0", status=stopping)

    def later() -> None:
        server.tell(saves)
        time.sleep(0.3)  # longer than the grace that the job gives
        server.tell(dataclasses.replace(over(saves, "h0"), state=RunState.STOPPED))

    server.attend(FakeWatch(on_stop=threading.Thread(target=later).start))
    server.tell(run_of(2))
    heard: list[float] = []
    found = stop_by_monitor(control, BECAUSE, saving=heard.append)
    assert found is not None and found[1] == {} and heard == [45.0]
