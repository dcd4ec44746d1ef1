"""Verbs that make, start and end a run."""

from __future__ import annotations

import json
import shutil
from typing import Iterator

from orchestrator.agent import runs
from orchestrator.agent.prepare import prepare as prepare_run
from orchestrator.agent.request import Answer, Request
from orchestrator.layout import Workdir
from orchestrator.records import Manifest

__all__ = ["commit", "prepare", "start", "stop", "undo"]


def prepare(request: Request) -> Iterator[Answer]:
    """Make the run's directory and its supervisor, which holds the devices."""
    bundle = json.loads(request.payload.read())
    manifest = Manifest.from_json(bundle["manifest"])
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
    run_id = request.args["run_id"]
    run = Workdir(request.root).run(run_id)
    if runs.is_run_id(run_id) and run.root.exists():
        runs.end_and_wait(run, {"verb": "undo"}, timeout=10.0)
        # The supervisor removes its run itself, unless it had ended before it was told.
        shutil.rmtree(run.root, ignore_errors=True)
    yield Answer()


def _told(verb: str, request: Request) -> Answer:
    run = runs.find(Workdir(request.root), request.args["run_id"])
    return Answer(runs.tell(run, {"verb": verb, **request.args}))
