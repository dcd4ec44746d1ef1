"""Which of what a host says can wait is seen by how it begins, before anybody reads it."""

from __future__ import annotations

import json
import threading

import pytest

from orchestrator.core.codec import to_json
from orchestrator.core.push import Beat, Change, Digest, Gone, Pushed
from orchestrator.hosts.session import _CALM
from orchestrator.hosts.ssh.channel import _StdoutBuffer
from tests.hosts.lying_host import Clock, Lie
from tests.hosts.test_conversation import session_over

DIGEST, BEAT = Digest(1, 2.0, 3, 4), Beat(1, 2.0)


def line(event: Pushed | Gone) -> bytes:
    """As supervisors and agents send it."""
    return json.dumps({"event": event.EVENT, "data": to_json(event)}).encode() + b"\n"


def heard(*pieces: bytes, is_ended: bool = False) -> list[str]:
    buffer, found = _StdoutBuffer(), list[str]()
    buffer.tell = lambda: found.append("tell")
    buffer.calm = (_CALM, lambda: found.append("calm"))
    for piece in pieces:
        buffer.feed(piece)
    if is_ended:
        buffer.close()
    assert buffer.is_ready
    assert buffer.read(1 << 20) == b"".join(pieces)
    return found


def test_a_digest_and_a_beat_can_wait() -> None:
    assert heard(line(DIGEST), line(BEAT)) == ["calm", "calm"]


@pytest.mark.parametrize(
    "said",
    [
        line(Change(1, 2.0, "started")),
        line(Gone(1.0, "no such run")),
        line(DIGEST) + line(Change(1, 2.0, "started")),
        line(DIGEST) + line(Change(1, 2.0, "started"))[:20],
        line(DIGEST)[:20],
        b'{"id": 3, "ok": true, "result": 1}\n',
    ],
    ids=["change", "gone", "one behind", "a part behind", "a part", "answer"],
)
def test_all_else_is_told_at_once(said: bytes) -> None:
    assert heard(said) == ["tell"]


def test_so_is_the_end() -> None:
    assert heard(line(BEAT), is_ended=True) == ["calm", "tell"]


def test_who_does_not_tell_them_apart_is_told_of_all() -> None:
    buffer, found = _StdoutBuffer(), list[str]()
    buffer.tell = lambda: found.append("tell")
    buffer.feed(line(DIGEST))
    assert found == ["tell"]


def test_a_session_has_its_channel_tell_them_apart_where_somebody_wants_that() -> None:
    session, channel = session_over(Lie(iter([])), Clock())
    asked: list[tuple[object, ...]] = []
    channel.on_calm = lambda *given: asked.append(given)  # type: ignore[method-assign]
    told, calm = threading.Event(), threading.Event()
    session.on_readable(told.set)
    assert asked == []
    session.on_readable(told.set, calm.set)
    assert asked == [(_CALM, calm.set)]
