"""The verbs that bring files to the host."""

from __future__ import annotations

from typing import Iterator

from orchestrator.agent import content_store as putting
from orchestrator.agent.content_store import Store
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.paths import Workdir

__all__ = [
    "missing",
    "push",
    "put_file",
]


def missing(request: Request) -> Iterator[Answer]:
    """Which of these contents the store has not."""
    yield Answer(_store(request).missing(request.args["hashes"]))


def push(request: Request) -> Iterator[Answer]:
    """Put a content into the store."""
    _store(request).receive(request.args["sha256"], request.args["size"], request.payload)
    yield Answer()


def put_file(request: Request) -> Iterator[Answer]:
    """Put a file where the account may write."""
    args = request.args
    yield Answer(putting.put_file(args["path"], request.payload, size=args["size"], sha256=args["sha256"]))


def _store(request: Request) -> Store:
    return Store(Workdir(request.root).store)
