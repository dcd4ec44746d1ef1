"""A conversation with a chat's worker, over the socket in its run's directory."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.agent.chat_relay import converse
from orchestrator.agent.control_socket import listen
from orchestrator.core.errors import AgentError

QUESTION = {"messages": [{"role": "user", "content": "why?"}]}


class Worker(threading.Thread):
    """Takes one client and does with it what the test says; `heard` is the client's request."""

    def __init__(self, path: Path, answer: Callable[[socket.socket], None]) -> None:
        super().__init__(daemon=True)
        self.listener = listen(path)
        self.listener.setblocking(True)
        self.answer = answer
        self.heard: Any = None
        self.start()

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rb") as lines:
            self.heard = json.loads(lines.readline())
            self.answer(connection)
        self.listener.close()


def say(connection: socket.socket, *events: dict[str, Any]) -> None:
    for event in events:
        connection.sendall(json.dumps(event).encode() + b"\n")


def test_an_answer_comes_in_pieces_and_ends_with_what_it_cost(tmp_path: Path) -> None:
    path = tmp_path / ("a folder of a long name " * 5) / "chat.sock"
    path.parent.mkdir()
    done = {"done": True, "tokens": 2, "seconds": 0.5}
    worker = Worker(path, lambda connection: say(connection, {"text": "be"}, {"text": "cause"}, done))
    assert list(converse(path, QUESTION)) == [{"text": "be"}, {"text": "cause"}, done]
    worker.join(60)
    assert worker.heard == QUESTION


def test_a_refused_question_is_the_last_event(tmp_path: Path) -> None:
    path = tmp_path / "chat.sock"
    Worker(path, lambda connection: say(connection, {"error": "too long"}, {"text": "never read"}))
    assert list(converse(path, QUESTION)) == [{"error": "too long"}]


def test_a_client_that_goes_away_is_noticed_by_the_worker(tmp_path: Path) -> None:
    path, gone = tmp_path / "chat.sock", threading.Event()

    def talk_on(connection: socket.socket) -> None:
        try:
            while True:
                say(connection, {"text": "and "})
        except OSError:
            gone.set()

    Worker(path, talk_on)
    events = converse(path, QUESTION)
    assert next(events) == {"text": "and "}
    events.close()
    assert gone.wait(60)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda connection: None, "the worker ended in the middle of its answer"),
        (lambda connection: connection.sendall(b"not json\n"), "the chat broke off"),
    ],
)
def test_a_worker_that_breaks_off_is_an_error(
    tmp_path: Path, answer: Callable[[socket.socket], None], what: str
) -> None:
    path = tmp_path / "chat.sock"
    Worker(path, answer)
    with pytest.raises(AgentError, match=what):
        list(converse(path, QUESTION))


def test_a_run_on_which_nobody_listens_yet(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="its model may still be loading") as caught:
        list(converse(tmp_path / "chat.sock", QUESTION))
    assert caught.value.kind == "not_listening"


def test_a_link_in_the_place_of_the_socket_is_not_followed(tmp_path: Path) -> None:
    Worker(tmp_path / "another.sock", lambda client: None)
    (tmp_path / "chat.sock").symlink_to("another.sock")
    with pytest.raises(AgentError, match="it is a symbolic link, which is not followed"):
        next(converse(tmp_path / "chat.sock", QUESTION))
