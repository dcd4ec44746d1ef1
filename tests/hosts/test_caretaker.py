"""The caretaker of SSH connections: one thread for all streams and all ends."""

from __future__ import annotations

import os
import threading
from typing import IO

from orchestrator.hosts.ssh.caretaker import Caretaker


def pipe() -> tuple[IO[bytes], int]:
    ear, mouth = os.pipe()
    return os.fdopen(ear, "rb", buffering=0), mouth


def test_many_streams_are_read_to_their_ends_by_one_thread() -> None:
    caretaker, before = Caretaker(), threading.active_count()
    heard: dict[int, bytes] = {}
    ends = []
    for number in range(20):
        stream, mouth = pipe()

        def feed(data: bytes, number: int = number) -> None:
            heard[number] = heard.get(number, b"") + data

        ends.append((caretaker.drain(stream, feed), stream, mouth))
    assert threading.active_count() == before + 1
    for number, (_, _, mouth) in enumerate(ends):
        os.write(mouth, b"said by %d" % number)
        os.close(mouth)
    for ended, stream, _ in ends:
        assert ended.wait(60) and stream.closed
    assert heard == {number: b"said by %d" % number for number in range(20)}


def test_what_ends_is_told_from_what_does_not_and_a_fault_hinders_nobody() -> None:
    caretaker, found, done = Caretaker(), [], threading.Event()

    def fail(is_over: bool) -> None:
        raise ValueError("one connection's")

    def note(is_over: bool) -> None:
        found.append(is_over)
        if len(found) == 2:
            done.set()

    caretaker.when(lambda: True, 60.0, fail)
    caretaker.when(lambda: False, 0.05, note)
    caretaker.when(lambda: True, 60.0, note)
    assert done.wait(60)
    assert sorted(found) == [False, True]
