"""The verbs that find, check, read and place the shards of a run's checkpoint."""

from __future__ import annotations

import zlib
from typing import Any, Dict, Iterator, Sequence

from orchestrator.agent import attempt_guard, iteration_folders, saved_steps
from orchestrator.agent import host_runs as runs
from orchestrator.agent import shard_ranges as ckpt_read
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.codec import from_json
from orchestrator.core.errors import CheckpointError
from orchestrator.core.paths import Workdir
from orchestrator.core.records import Load
from orchestrator.formats.told_step import write_told_step

__all__ = [
    "check_shard",
    "check_shards",
    "index",
    "iterations",
    "place_shards",
    "read_segments",
    "saved",
    "shards",
    "sum_segments",
    "tell_step",
]


def shards(request: Request) -> Iterator[Answer]:
    """The files that an attempt has, without looking into them."""
    run = attempt_guard.reading(Workdir(request.root), request.args)
    steps = bool(request.args.get("steps"))
    own = ckpt_read.list_shards(str(run.attempt.checkpoint), follow_links=False, with_steps=steps)
    kept = saved_steps.copies(run, run.number or 1, with_steps=steps) if request.args.get("copies") else ()
    yield Answer([*own, *kept])


def saved(request: Request) -> Iterator[Answer]:
    """The same of all attempts."""
    run = runs.find(Workdir(request.root), request.args["run_id"])
    args = request.args
    rows = saved_steps.saved(
        run,
        args.get("tokens", {}),
        with_copies=bool(args.get("copies")),
        with_steps=bool(args.get("steps")),
    )
    yield Answer(list(rows))


def iterations(request: Request) -> Iterator[Answer]:
    """What an attempt has saved in the form of MindFormers' checkpoint 2.0."""
    run = attempt_guard.reading(Workdir(request.root), request.args)
    yield Answer(iteration_folders.list_iterations(str(run.attempt.checkpoint)))


def index(request: Request) -> Iterator[Answer]:
    """Where in this file which tensor is."""
    yield Answer(list(ckpt_read.index_shard(request.args["path"])))


def check_shard(request: Request) -> Iterator[Answer]:
    """Whether a file is whole; it is read from its beginning to its end where it has a checksum."""
    args = request.args
    yield Answer(saved_steps.check_shard(args["path"], args["identity"], hashed=args["hashed"]))


def check_shards(request: Request) -> Iterator[Answer]:
    """The same of several files, in their order; one that is not whole hides none of the others."""
    yield Answer([_checked(*each) for each in request.args["files"]])


def _checked(path: str, identity: Sequence[int], hashed: bool) -> Dict[str, Any]:
    try:
        return saved_steps.check_shard(path, identity, hashed=hashed)
    except (CheckpointError, OSError) as error:
        return {"summed": False, "damage": str(error)}


def place_shards(request: Request) -> Iterator[Answer]:
    """Put shards of earlier attempts where this one loads them from; the step is where it goes on."""
    args, run = request.args, attempt_guard.acting(Workdir(request.root), request.args)
    saved_steps.place(run, args["number"], [from_json(Load, load) for load in args["loads"]])
    write_told_step(run.root, *args["origin"], back=True)
    yield Answer()


def tell_step(request: Request) -> Iterator[Answer]:
    """Note which is the newest step that is complete over all hosts."""
    run = attempt_guard.acting(Workdir(request.root), request.args)
    write_told_step(run.root, request.args["number"], request.args["step"])
    yield Answer()


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
