"""The verbs that make, start and end a run, look at it and talk to it."""

from __future__ import annotations

import json
import time
from typing import Iterator

from orchestrator.agent import chat_relay as chatting
from orchestrator.agent import host_runs as runs
from orchestrator.agent import plogs
from orchestrator.agent.prepare_run import prepare as prepare_run
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.record_class import replace
from orchestrator.core.records import Manifest

__all__ = [
    "chat",
    "commit",
    "list_plogs",
    "list_runs",
    "prepare",
    "read_log",
    "read_plog",
    "small_files",
    "start",
    "status",
    "stop",
    "undo",
]


def prepare(request: Request) -> Iterator[Answer]:
    """Make the run's directory and its supervisor, which holds the devices."""
    bundle = json.loads(request.payload.read())
    manifest = from_json(Manifest, bundle["manifest"])
    yield Answer(
        prepare_run(
            Workdir(request.root),
            manifest,
            worker_config=bundle["worker_config"],
            rank_table=bundle["rank_table"],
        )
    )


def start(request: Request) -> Iterator[Answer]:
    """Start the workers, as far as their import."""
    yield _told("start", request)


def commit(request: Request) -> Iterator[Answer]:
    """Every host has started its workers: let them run."""
    yield _told("commit", request)


def stop(request: Request) -> Iterator[Answer]:
    """End the workers."""
    yield _told("stop", request)


def undo(request: Request) -> Iterator[Answer]:
    """Take a launch back; a run that is not there is as undone as can be."""
    runs.undo(Workdir(request.root), request.args["run_id"])
    yield Answer()


def _told(verb: str, request: Request) -> Answer:
    run = runs.find(Workdir(request.root), request.args["run_id"])
    return Answer(runs.tell(run, {"verb": verb, **request.args}))


def status(request: Request) -> Iterator[Answer]:
    """What became of a run's part on this host."""
    yield Answer(to_json(replace(runs.status(_run(request)), clock=time.time())))


def list_runs(request: Request) -> Iterator[Answer]:
    """Every run on this host, or the one asked for."""
    yield Answer(to_json(runs.list_runs(Workdir(request.root), request.args.get("run_id", ""))))


def read_log(request: Request) -> Iterator[Answer]:
    """A part of a log, as raw bytes."""
    args = request.args
    found = runs.read_log(_run(request), args["label"], args["offset"], args["limit"])
    data = found.pop("data")
    yield Answer(found, data)


def list_plogs(request: Request) -> Iterator[Answer]:
    """CANN's own log files of a run."""
    yield Answer(plogs.list_plogs(_run(request)))


def read_plog(request: Request) -> Iterator[Answer]:
    """The end of one of them, as raw bytes."""
    yield Answer(None, plogs.read_plog(_run(request), request.args["path"], request.args["limit"]))


def small_files(request: Request) -> Iterator[Answer]:
    """The files of one of the run's folders, piece by piece: strategies, or what belongs to the model."""
    args = request.args
    for name, data in runs.small_files(_run(request), args["folder"], args.get("known", "")):
        yield Answer(name, data, more=True)
    yield Answer()


def chat(request: Request) -> Iterator[Answer]:
    """What the chat's worker says, an answer a piece, then one without."""
    question = json.loads(request.payload.read())
    for event in chatting.converse(_run(request).chat_socket, question):
        yield Answer(event, more=True)
    yield Answer()


def _run(request: Request) -> RunDir:
    return runs.find(Workdir(request.root), request.args["run_id"])
