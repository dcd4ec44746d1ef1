"""The chat worker's socket: pieces, errors, clients that vanish, ranks that follow. No model is needed."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from model.errors import ModelError
from model.inference.chat_server import ChatServer, Message
from orchestrator.testing.waiting import eventually


def echo(messages: Sequence[Message]) -> Iterator[tuple[str, int]]:
    """Says the last question back, a word at a time; refuses one that is too long."""
    words = messages[-1].content.split()
    if len(words) > 5:
        raise ModelError("a prompt of 6 tokens leaves no room", where="prompt")
    for number, word in enumerate(words, 1):
        yield word + " ", number


class Served:
    """A server in a thread, and one client after another."""

    def __init__(self, folder: Path, server: ChatServer) -> None:
        self.path = folder / "chat.sock"
        self.over = threading.Event()
        self.thread = threading.Thread(target=server.serve, args=(self.path, self.over.is_set), daemon=True)
        self.thread.start()
        eventually(self.path.exists, what="the socket")

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(60)
        eventually(lambda: self._try(client), what="a listener")
        return client

    def _try(self, client: socket.socket) -> bool:
        return client.connect_ex(str(self.path)) == 0

    def ask(self, request: bytes) -> list[dict[str, Any]]:
        with self.connect() as client:
            client.sendall(request + b"\n")
            return [json.loads(line) for line in client.makefile("rb")]

    def close(self) -> None:
        self.over.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path, ChatServer(echo))
    yield served
    served.close()


def question(*contents: str) -> bytes:
    roles = ("user", "assistant") * len(contents)
    turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return json.dumps({"messages": turns}).encode()


def test_an_answer_in_pieces(served: Served) -> None:
    *pieces, done = served.ask(question("tell me", "what?", "two words"))
    assert pieces == [{"text": "two "}, {"text": "words "}]
    assert done["done"] is True and done["tokens"] == 2 and done["seconds"] >= 0


@pytest.mark.parametrize(
    ("request_", "what"),
    [
        (question("one two three four five six"), "prompt: a prompt of 6 tokens leaves no room"),
        (b"why?", "expected one line of JSON"),
        (b'{"messages": "why"}', "expected one line of JSON"),
        (b'{"messages": []}', "the last message must be the user's"),
        (question("why?", "because"), "the last message must be the user's"),
        (b'{"messages": [{"role": "user", "content": 3}]}', "every content a text"),
        (b'{"messages": [{"role": "user", "content": "a \\udcff"}]}', "half a surrogate pair"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "the question is no UTF-8"),
        (b'{"messages": ' + b"[" * 100_000, "expected one line of JSON"),
    ],
)
def test_what_cannot_be_answered_is_told_and_the_next_client_is_served(
    served: Served, request_: bytes, what: str
) -> None:
    (event,) = served.ask(request_)
    assert what in event["error"]
    assert served.ask(question("again"))[0] == {"text": "again "}


def test_a_client_that_says_nothing_or_hangs_up_does_not_stop_the_chat(tmp_path: Path) -> None:
    said: Queue[str] = Queue()
    ended = threading.Event()

    def endless(messages: Sequence[Message]) -> Iterator[tuple[str, int]]:
        try:
            number = 0
            while messages[-1].content == "endless":
                number += 1
                said.put("and")
                yield "and ", number
            yield "short ", 1
        finally:
            ended.set()

    served = Served(tmp_path, ChatServer(endless))
    served.connect().close()
    client = served.connect()
    client.sendall(question("endless") + b"\n")
    said.get(timeout=60)
    client.close()
    assert ended.wait(60), "the answer goes on though nobody listens"
    assert served.ask(question("short"))[0] == {"text": "short "}
    served.close()


class Pair:
    """Two ranks in two threads that exchange over queues: what the collectives do between processes."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=60)
        self.values: list[Any] = [None, None]

    def rank(self, number: int) -> PairShare:
        return PairShare(self, number)


class PairShare:
    def __init__(self, pair: Pair, number: int) -> None:
        self.pair, self.number = pair, number

    def _both(self, value: Any) -> list[Any]:
        self.pair.values[self.number] = value
        self.pair.barrier.wait()
        values = list(self.pair.values)
        self.pair.barrier.wait()
        return values

    def text(self, text: str) -> str:
        return str(self._both(text)[0])

    def flag(self, flag: bool) -> bool:
        return any(self._both(flag))


def test_the_other_ranks_compute_the_same_and_stop_with_the_first(tmp_path: Path) -> None:
    pair, heard = Pair(), Queue[str]()

    def listening(messages: Sequence[Message]) -> Iterator[tuple[str, int]]:
        for piece, count in echo(messages):
            heard.put(piece)
            yield piece, count

    def follow() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            ChatServer(listening, pair.rank(1)).follow()

    threading.Thread(target=follow, daemon=True).start()
    served = Served(tmp_path, ChatServer(echo, pair.rank(0)))
    assert served.ask(question("two words"))[-1]["tokens"] == 2
    assert [heard.get(timeout=60), heard.get(timeout=60)] == ["two ", "words "]
    served.ask(question("one two three four five six"))
    assert served.ask(question("still there"))[0] == {"text": "still "}
    assert heard.get(timeout=60) == "still "
    served.over.set()
    served.thread.join(60)
    pair.barrier.abort()
