"""The worker's side of a chat job: questions come in on a Unix socket, answers go out piece by piece.

The socket is `chat.sock` in the run's directory, which only the run's own account may enter; no port opens.
A client sends one line of JSON, `{"messages": [{"role": "user" | "assistant", "content": …}, …]}`, and gets
`{"text": …}` lines, then `{"done": true, "tokens": n, "seconds": s}` or `{"error": …}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from model.errors import ModelError

__all__ = ["Alone", "ChatServer", "Message", "Reply", "Share"]

LONGEST_QUESTION = 1 << 20
IDLE = 1.0  # seconds after which the other ranks are told that there is nothing yet


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is `user` or `assistant`."""

    role: str
    content: str


class Share(Protocol):
    """How rank 0 tells the ranks that compute with it what to do; every rank calls in the same order."""

    def text(self, text: str) -> str:
        """Rank 0's text, on every rank."""

    def flag(self, flag: bool) -> bool:
        """Whether any rank says so."""


class Alone:
    """One rank has nobody to tell."""

    def text(self, text: str) -> str:
        return text

    def flag(self, flag: bool) -> bool:
        return flag


# (messages) -> pieces of text with the number of new tokens so far; ModelError where they cannot be answered.
Reply = Callable[[Sequence[Message]], Iterator[tuple[str, int]]]


class ChatServer:
    """Answers one client at a time, for ever; the other ranks of the model group follow with `follow`."""

    def __init__(self, reply: Reply, share: Share | None = None) -> None:
        self._reply = reply
        self._share = share or Alone()

    def serve(self, path: Path, is_over: Callable[[], bool] = lambda: False) -> None:
        """Rank 0: listen at `path` until `is_over`, which is asked at least every second."""
        with contextlib.closing(_listen(path)) as listener:
            while not is_over():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    self._share.text("")
                    continue
                with connection:
                    self._take(connection)

    def follow(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Every other rank: compute what rank 0 is asked."""
        while not is_over():
            question = self._share.text("")
            if question:
                self._answer(question, None)

    def _take(self, connection: socket.socket) -> None:
        connection.settimeout(30.0)
        try:
            with connection.makefile("rb") as lines:
                question = lines.readline(LONGEST_QUESTION).decode("utf-8")
        except (OSError, UnicodeDecodeError):
            return  # it said nothing that could be answered
        if question.strip():
            self._answer(self._share.text(question), connection)

    def _answer(self, question: str, client: socket.socket | None) -> None:
        started, tokens = time.monotonic(), 0
        try:
            for text, count in self._reply(_messages(question)):
                tokens = count
                gone = client is not None and not _say(client, {"text": text})
                if self._share.flag(gone):
                    return
        except ModelError as error:
            _say(client, {"error": str(error)})
            return
        seconds = round(time.monotonic() - started, 3)
        _say(client, {"done": True, "tokens": tokens, "seconds": seconds})


def _messages(question: str) -> list[Message]:
    try:
        request = json.loads(question)
        found = [Message(item["role"], item["content"]) for item in request["messages"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "expected one line of JSON with messages of role and content", where="chat"
        ) from error
    if not found or found[-1].role != "user" or not all(_is_turn(message) for message in found):
        raise ModelError("the last message must be the user's, and every content a text", where="chat")
    return found


def _is_turn(message: Message) -> bool:
    is_text = isinstance(message.content, str) and bool(message.content.strip())
    return message.role in ("user", "assistant") and is_text


def _say(client: socket.socket | None, event: dict[str, Any]) -> bool:
    """Whether the client is still there."""
    if client is None:
        return True
    try:
        client.sendall(json.dumps(event, ensure_ascii=False).encode() + b"\n")
    except OSError:
        return False
    return True


def _listen(path: Path) -> socket.socket:
    """A socket at this path, in place of one that an earlier worker has left."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A socket's address holds 107 bytes, a path may be longer: go through the folder's descriptor.
    folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    listener.listen(16)
    listener.settimeout(IDLE)
    return listener
