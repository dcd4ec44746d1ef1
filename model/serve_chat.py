"""A chat job's worker: loads the model, then answers questions until it is stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from model.answering import Model, open_rank, sampling_of
from model.chat import Chat
from model.chat_server import Alone, ChatServer, Message, Reply
from model.generation import Sampling, text_pieces
from model.settings import Settings, Worker
from model.share import GroupShare

__all__ = ["replies", "serve_chat"]


def serve_chat(settings: Settings, worker: Worker, home: Path) -> None:
    """Serve `chat.sock` in `home` on rank 0; the other ranks compute along. Returns only by a signal."""
    sampling = sampling_of(settings.chat)
    model, session = open_rank(settings, worker, batch=1)
    share = GroupShare(session.place.rank, session.groups.model) if session.groups.model else Alone()
    server = ChatServer(replies(model, sampling), share)
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
    """(question, answer) pairs; a question without an answer is left out."""
    turns: list[tuple[str, str]] = []
    for asked, said in pairwise(messages):
        if (asked.role, said.role) == ("user", "assistant"):
            turns.append((asked.content, said.content))
    return turns
