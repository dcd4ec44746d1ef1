"""The verbs that bring files to the host, and those that find and read the shards of a run's checkpoint."""

from __future__ import annotations

import zlib
from typing import Iterator

from orchestrator.agent import content_store as putting
from orchestrator.agent import host_runs as runs
from orchestrator.agent import shard_ranges as ckpt_read
from orchestrator.agent.content_store import Store
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.paths import Workdir

__all__ = [
    "index",
    "missing",
    "push",
    "put_file",
    "read_segments",
    "shards",
    "sum_segments",
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


def shards(request: Request) -> Iterator[Answer]:
    """The files there are, without looking into them."""
    run = runs.find(Workdir(request.root), request.args["run_id"])
    yield Answer(ckpt_read.list_shards(str(run.attempt.checkpoint), follow_links=False))


def index(request: Request) -> Iterator[Answer]:
    """Where in this file which tensor is."""
    yield Answer(list(ckpt_read.index_shard(request.args["path"])))


def read_segments(request: Request) -> Iterator[Answer]:
    """An answer with the bytes of each segment and their crc32, then one without."""
    args = request.args
    for data in ckpt_read.read_segments(args["segments"], args["identities"]):
        yield Answer(zlib.crc32(data), data, more=True)
    yield Answer()


def sum_segments(request: Request) -> Iterator[Answer]:
    """The crc32 of each segment, in one answer: replicas are compared where they are."""
    args = request.args
    segments = ckpt_read.read_segments(args["segments"], args["identities"])
    yield Answer([zlib.crc32(data) for data in segments])
