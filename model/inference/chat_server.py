"""The worker of a chat job: it loads the model and answers questions on a Unix socket, piece by piece.

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
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from model.config.settings import Settings, Worker
from model.errors import ModelError
from model.inference.chat import Chat
from model.inference.generate import text_pieces
from model.inference.load_model import Model, open_rank
from model.inference.sampling import Sampling
from model.parallel.distributed import GroupBroadcast
from model.phases import Phase, Phases

__all__ = [
    "Alone",
    "Broadcast",
    "ChatServer",
    "Message",
    "Reply",
    "replies",
    "serve_chat",
]

LONGEST_QUESTION = 1 << 20
IDLE = 1.0  # seconds after which the other ranks hear that there is nothing yet


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is `user` or `assistant`."""

    role: str
    content: str


class Broadcast(Protocol):
    """What ranks that compute together know of each other; every rank calls in the same order."""

    def text(self, text: str) -> str:
        """Rank 0's text, on every rank."""

    def flag(self, flag: bool) -> bool:
        """Whether any rank says so."""


class Alone:
    """A broadcast to nobody."""

    def text(self, text: str) -> str:
        return text

    def flag(self, flag: bool) -> bool:
        return flag


# (messages) -> pieces of text with the number of new tokens so far; ModelError where they cannot be answered.
Reply = Callable[[Sequence[Message]], Iterator[tuple[str, int]]]


class ChatServer:
    """Answers one client at a time, for ever; the other ranks of the model group follow with `follow`."""

    def __init__(self, reply: Reply, broadcast: Broadcast | None = None) -> None:
        self._reply = reply
        self._broadcast = broadcast or Alone()

    def serve(self, path: Path, is_over: Callable[[], bool] = lambda: False) -> None:
        """Rank 0: listen at `path` until `is_over`, which is called at least every second."""
        with contextlib.closing(_listen(path)) as listener:
            while not is_over():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    self._broadcast.text("")
                    continue
                with connection:
                    self._take(connection)

    def follow(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Every other rank: compute what rank 0 answers."""
        while not is_over():
            question = self._broadcast.text("")
            if question:
                self._answer(question, None)

    def _take(self, connection: socket.socket) -> None:
        connection.settimeout(30.0)
        try:
            with connection.makefile("rb") as lines:
                question = lines.readline(LONGEST_QUESTION).decode("utf-8")
        except OSError:
            return  # nothing came that could be answered
        except UnicodeDecodeError as error:
            _send(connection, {"error": f"chat: the question is no UTF-8: {error}"})
            return
        if question.strip():
            self._answer(self._broadcast.text(question), connection)

    def _answer(self, question: str, client: socket.socket | None) -> None:
        started, tokens = time.monotonic(), 0
        try:
            for text, count in self._reply(_messages(question)):
                tokens = count
                gone = client is not None and not _send(client, {"text": text})
                if self._broadcast.flag(gone):
                    return
        except ModelError as error:
            _send(client, {"error": str(error)})
            return
        seconds = round(time.monotonic() - started, 3)
        _send(client, {"done": True, "tokens": tokens, "seconds": seconds})


def _messages(question: str) -> list[Message]:
    try:
        request = json.loads(question)
        found = [Message(item["role"], item["content"]) for item in request["messages"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(
            "expected one line of JSON with messages of role and content", where="chat"
        ) from error
    _refuse_halves(found)
    if not found or found[-1].role != "user" or not all(_is_turn(message) for message in found):
        raise ModelError("the last message must be the user's, and every content a text", where="chat")
    return found


def _refuse_halves(messages: Sequence[Message]) -> None:
    try:
        for message in messages:
            str(message.content).encode()
    except UnicodeEncodeError:
        raise ModelError("holds half a surrogate pair, which is no character", where="chat") from None


def _is_turn(message: Message) -> bool:
    is_text = isinstance(message.content, str) and bool(message.content.strip())
    return message.role in ("user", "assistant") and is_text


def _send(client: socket.socket | None, event: dict[str, Any]) -> bool:
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


def serve_chat(settings: Settings, worker: Worker, home: Path, phases: Phases) -> None:
    """Serve `chat.sock` in `home` on rank 0; the other ranks compute along. Returns only by a signal."""
    phases.enter(Phase.INIT)
    sampling = Sampling.said_by(settings.chat)
    model, session = open_rank(settings, worker, batch=1)
    phases.enter(Phase.EVALUATE)  # which lasts: it waits for questions, and answers them
    broadcast = GroupBroadcast(session.place.rank, session.groups.model) if session.groups.model else Alone()
    server = ChatServer(replies(model, sampling), broadcast)
    if session.place.rank == 0:
        server.serve(home / "chat.sock")
    else:
        server.follow()


def replies(model: Model, sampling: Sampling) -> Reply:
    """What a ChatServer asks for its answers: the turns before the last message are the conversation."""

    def reply(messages: Sequence[Message]) -> Iterator[tuple[str, int]]:
        count = 0

        def counted(prompt: str, sampling: Sampling) -> Iterator[int]:
            nonlocal count
            for token in model.generator.stream(model.tokenizer.encode(prompt), sampling):
                count += 1
                yield token

        chat = Chat(
            lambda prompt, sampling: text_pieces(model.tokenizer, counted(prompt, sampling)),
            lambda text: len(model.tokenizer.encode(text)),
            sampling=sampling,
            template=model.config.prompt_template,
            room=model.config.seq_length,
        )
        chat.turns = _turns(messages[:-1])
        for text in chat.ask(messages[-1].content):
            yield text, count

    return reply


def _turns(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """(question, answer) pairs; a question without an answer is dropped."""
    turns: list[tuple[str, str]] = []
    for question, answer in pairwise(messages):
        if (question.role, answer.role) == ("user", "assistant"):
            turns.append((question.content, answer.content))
    return turns
