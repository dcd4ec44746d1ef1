"""The client's side of the protocol: numbers of requests, unasked messages, limits, time of an answer."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.core.errors import AgentError, AnswerError, CommandTimeout, TransportError
from orchestrator.core.protocol import ProtocolError, Receiver, frame
from orchestrator.hosts.boot import Bundle
from orchestrator.hosts.conversation import Answer, Conversation, Event, Limits
from orchestrator.hosts.session import Session
from orchestrator.testing.waiting import eventually
from tests.hosts.lying_host import READY, Clock, Lie, LyingChannel, LyingTransport
from tests.hosts.scripted_transport import ScriptedTransport


def asked(limits: Limits = Limits()) -> Conversation:  # noqa: B008 (frozen)
    talk = Conversation("far")
    assert json.loads(talk.ask("clock", {}, 0, limits)) == {"id": 1, "verb": "clock", "args": {}, "bytes": 0}
    return talk


def answer(**header: Any) -> bytes:
    return frame({"id": 1, "ok": True, "result": None, **header})


def test_frames_come_out_as_they_went_in_however_they_are_cut() -> None:
    data = frame({"a": 1, "bytes": 5}) + b"12\n45" + frame({"b": 2})
    for size in range(1, len(data) + 1):
        receiver, found = Receiver(), []
        for at in range(0, len(data), size):
            receiver.feed(data[at : at + size])
            while True:
                if receiver.left:
                    found.append(receiver.take(100))
                    if receiver.left:
                        break
                elif (header := receiver.header()) is not None:
                    found.append(header)
                else:
                    break
        headers = [each for each in found if isinstance(each, dict)]
        body = b"".join(each for each in found if isinstance(each, bytes))
        assert (
            headers == [{"a": 1, "bytes": 5}, {"b": 2}] and body == b"12\n45" and receiver.is_between_frames
        )


@pytest.mark.parametrize("line", [b"x", b"[1]", b'{"bytes": -1}', b'{"bytes": true}', b"[" * 5000, b"\xff"])
def test_what_is_no_frame_is_refused(line: bytes) -> None:
    receiver = Receiver()
    receiver.feed(line + b"\n")
    with pytest.raises(ProtocolError):
        receiver.header()


def test_a_line_has_a_limit_whole_or_not() -> None:
    for data in (b"x" * 11, b'"' + b"x" * 9 + b'"\n'):
        receiver = Receiver(longest=10)
        receiver.feed(data)
        with pytest.raises(ProtocolError, match="over 10 bytes"):
            receiver.header()


def test_unasked_messages_stand_between_answers() -> None:
    talk = asked()
    talk.feed(frame({"event": "end", "data": {"rank": 3}}) + answer(result=7)[:20])
    assert (talk.next(), talk.next()) == (Event("end", {"rank": 3}), None)
    talk.feed(answer(result=7)[20:] + frame({"event": "phase\x1b"}))
    assert talk.next() == Answer(7, 0, False)
    assert talk.next() == Event("phase\\x1b", None)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (answer(id=2), "another question"),
        (answer(id="1"), "another question"),
        (frame({"ok": True}), "another question"),
        (answer(result=None, bytes=1), "1 bytes where at most 0"),
        (answer(more=True) + answer(), "more than 1 answers"),
        (answer(result="x" * 3000), "over 2000 bytes"),
        (answer(result=[0] * 200), "more than 100 values"),
        (answer(result=[[[[[0]]]]]), "nested more than 5 deep"),
        (answer(ok="yes"), "no answer"),
        (answer(more=1), "no answer"),
        (frame({"id": 1, "ok": False, "error": "x"}), "without a reason"),
        (frame({"event": 1}), "an event that is none"),
        (frame({"event": "e", "bytes": 3}), "an event that is none"),
        (frame({"event": "e"}) * 1001, "1000 events"),
        (answer() + answer(), "another question"),
    ],
)
def test_what_breaks_the_rules(data: bytes, says: str) -> None:
    talk = asked(Limits(text=2000, items=100, depth=5))
    talk.feed(data)
    with pytest.raises(AnswerError, match=says):
        while talk.next() is not None:
            pass


def test_a_refusal_is_shown_and_not_obeyed() -> None:
    talk = asked()
    error = {"what": "no\nspace \x1b[31m", "remedy": "x" * 5000, "kind": "os_error"}
    talk.feed(frame({"id": 1, "ok": False, "error": error}))
    with pytest.raises(AgentError) as caught:
        talk.next()
    assert caught.value.what == "no\\nspace \\x1b[31m" and len(caught.value.remedy) == 1000
    assert caught.value.kind == "os_error" and talk.is_answered


def session_over(lie: Lie, clock: Clock, timeout: float = 10.0) -> tuple[Session, LyingChannel]:
    channel = LyingChannel(clock, Lie(iter([READY])), lambda request: lie)
    transport = LyingTransport(channel)
    bundle = Bundle(b"agent", "0" * 64)
    return Session(transport, python="p", workdir="w", bundle=bundle, timeout=timeout, clock=clock), channel


def dripped(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def test_an_answer_has_one_deadline_however_it_drips() -> None:
    for data in (answer(result="x" * 200), answer(bytes=200) + b"x" * 200):
        clock = Clock()
        session, channel = session_over(Lie(dripped(data), drip=1.0), clock)
        with pytest.raises(CommandTimeout, match="no whole answer to `clock` within 10 s"):
            list(session.stream("clock", {}, Limits(data=200)))
        assert 10.0 <= clock.now < 10.1 and channel.closed


def test_a_long_answer_has_time_for_its_length() -> None:
    clock, block = Clock(), b"x" * 65536
    pieces = [answer(bytes=100 * len(block)), *[block] * 100]
    session, _ = session_over(Lie(iter(pieces), drip=1.9), clock)
    ((_, data),) = session.stream("read_log", {}, Limits(data=1 << 30))
    assert len(data) == 100 * 65536 and clock.now > 100


def test_many_answers_that_drip_do_not_get_the_time_of_each() -> None:
    clock = Clock()
    drops = [answer(result=number, more=True) for number in range(5000)]
    session, _ = session_over(Lie(iter(drops), drip=1.9), clock)
    began = clock.now
    with pytest.raises(CommandTimeout, match="no whole answer to `small_files` within"):
        list(session.stream("small_files", {}, Limits(answers=20_000, together=True)))
    assert clock.now - began < 60


def test_what_is_done_with_an_answer_is_not_the_hosts_time() -> None:
    clock = Clock()
    session, _ = session_over(Lie(iter([answer(more=True), answer(more=True), answer()])), clock)
    for _ in session.stream("small_files", {}, Limits(answers=3, together=True)):
        clock.now += 1000.0  # a slow disk here


def events(count: int, size: int = 1) -> bytes:
    return b"".join(frame({"event": "step", "data": f"{number:0{size}}"}) for number in range(count))


def test_events_before_an_answer_are_kept_within_a_bound() -> None:
    session, _ = session_over(Lie(iter([events(900) + answer(result=1)])), Clock())
    assert [result for result, _ in session.stream("clock", {}, Limits())] == [1]
    heard = [session.heard() for _ in range(4)]
    assert [len(part) for part in heard] == [256, 256, 256, 132]
    assert [each.data for part in heard for each in part if isinstance(each, Event)] == [
        str(number) for number in range(900)
    ]
    session, channel = session_over(Lie(iter([events(1001) + answer(result=1)])), Clock())
    with pytest.raises(AnswerError, match="1000 events in place of an answer"):
        list(session.stream("clock", {}, Limits()))
    assert channel.closed


def test_a_host_that_floods_costs_itself_and_no_memory() -> None:
    """Ten thousand events at once are no flood; two a millisecond, without end, or megabytes of them, are."""
    for part, most in ((events(500), 21_000), (events(50, 60_000), 600)):
        clock, taken = Clock(), 0
        session, channel = session_over(Lie(itertools.repeat(part)), clock)
        session.allow(Limits(1 << 23, items=1 << 20, answers=20_000, total=1 << 25))
        session._channel.write(b'{"id": 1, "verb": "any"}\n')  # it begins
        with pytest.raises(AnswerError, match="floods us"):
            while True:
                found = session.heard()
                assert 0 < len(found) <= 256
                taken += len(found)
        assert most / 2 < taken < most and channel.closed
        assert channel.given < 1 << 26


class Host:
    """An agent in a thread: answers each request after `hold` is set, and sends what it is told to."""

    def __init__(self) -> None:
        self.send: Any = None
        self.hold = threading.Event()
        self.transport = ScriptedTransport("far", self._run)
        self.transport.connect()

    def _run(self, argv: Any, stdin: Any, stdout: Any, stderr: Any) -> int:
        for _ in ("for a shell", "the program", "what it is asked"):
            stdin.readline()
        stdout.write(READY)
        self.send = stdout.write
        for line in stdin:
            assert self.hold.wait(60)
            number = json.loads(line)["id"]
            stdout.write(frame({"event": "asked", "data": number}))
            first = {"id": number, "ok": True, "result": number, "bytes": 3, "more": True}
            stdout.write(frame(first) + b"a\nb")
            stdout.write(frame({"event": "asked", "data": number}))
            stdout.write(frame({"id": number, "ok": True, "result": None}))
        return 0


def heard_by(session: Session) -> tuple[threading.Event, list[Any]]:
    """Whether something is there, and what has been taken."""
    told = threading.Event()
    session.on_readable(told.set)
    return told, []


def take(session: Session, told: threading.Event, heard: list[Any]) -> list[Any]:
    """All that is there, once somebody has told of it."""
    assert told.wait(60)
    told.clear()
    while found := session.heard():
        heard += found
    return heard


def test_what_is_said_unasked_is_heard_without_waiting_and_holds_up_no_request() -> None:
    host = Host()
    session = Session(host.transport, python="p", workdir="w", bundle=Bundle(b"", "0"), timeout=60.0)
    told, heard = heard_by(session)
    eventually(lambda: host.send is not None, what="started")
    host.send(frame({"event": "end", "data": 1}))
    eventually(lambda: take(session, told, heard) == [Event("end", 1)], what="the event")
    assert session.heard() == []
    host.hold.set()
    for number in range(1, 20):
        found = list(session.stream("read_log", {}, Limits(data=3, answers=2)))
        assert found == [(number, b"a\nb"), (None, b"")]
        take(session, told, heard)  # who reads an answer tells what came with it
    assert [event.data for event in heard[1:]] == [number for number in range(1, 20) for _ in (1, 2)]
    session.close()


def test_an_answer_that_nobody_waits_for_comes_with_the_rest() -> None:
    sent: list[bytes] = []
    session, channel = session_over(
        Lie(iter([frame({"event": "a"}) + answer(result=5) + frame({"event": "b"})])), Clock()
    )
    told, heard = heard_by(session)
    session.begin("clock", {}, Limits())
    assert take(session, told, heard) == [Event("a", None), Answer(5, 0, False), Event("b", None)]
    assert not channel.closed and not sent


def test_a_refusal_that_nobody_waits_for_leaves_the_session_as_it_is() -> None:
    refusal = frame({"id": 1, "ok": False, "error": {"what": "no", "kind": "unknown_verb"}})
    session, channel = session_over(Lie(iter([refusal])), Clock())
    session.begin("watch", {}, Limits())
    (found,) = session.heard()
    assert isinstance(found, AgentError) and found.kind == "unknown_verb" and not channel.closed


def test_an_answer_that_does_not_come_is_late_and_other_requests_do_not_wait_for_it() -> None:
    clock = Clock()
    session, channel = session_over(Lie(iter([])), clock)
    session.begin("status", {}, Limits(), timeout=5.0)
    assert session.heard() == []
    clock.now += 6
    with pytest.raises(CommandTimeout, match="no whole answer to `status` within 5 s"):
        session.heard()
    assert channel.closed
    with pytest.raises(TransportError):
        list(session.stream("clock", {}, Limits()))


def test_who_is_cut_off_hears_of_it() -> None:
    host = Host()
    session = Session(host.transport, python="p", workdir="w", bundle=Bundle(b"", "0"), timeout=60.0)
    told, _ = heard_by(session)
    assert told.wait(60) and session.heard() == []  # nothing is said, and that is no error
    told.clear()
    host.transport.break_connection()
    assert told.wait(60)
    with pytest.raises(TransportError):
        session.heard()
