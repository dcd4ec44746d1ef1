"""The verbs that find and read the shards of a run's checkpoint."""

from __future__ import annotations

import zlib
from typing import Iterator

from orchestrator.agent import attempt_guard
from orchestrator.agent import shard_ranges as ckpt_read
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.paths import Workdir

__all__ = ["index", "read_segments", "shards", "sum_segments"]


def shards(request: Request) -> Iterator[Answer]:
    """The files there are, without looking into them."""
    run = attempt_guard.reading(Workdir(request.root), request.args)
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
