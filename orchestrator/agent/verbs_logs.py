"""The verbs that read what a run's processes have written, and talk to one: logs, small files, the chat."""

from __future__ import annotations

import json
from typing import Iterator

from orchestrator.agent import attempt_guard, plogs
from orchestrator.agent import chat_relay as chatting
from orchestrator.agent import host_runs as runs
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.paths import RunDir, Workdir

__all__ = ["chat", "list_plogs", "read_log", "read_plog", "small_files"]


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
    return attempt_guard.reading(Workdir(request.root), request.args)
