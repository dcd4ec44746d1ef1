"""The verbs that make, start and end a run, and look at what became of it."""

from __future__ import annotations

import json
import time
from typing import Iterator

from orchestrator.agent import host_runs as runs
from orchestrator.agent.cgroup_memory import note_counts
from orchestrator.agent.prepare_run import prepare as prepare_run
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.record_class import replace
from orchestrator.core.records import Manifest

__all__ = [
    "commit",
    "list_runs",
    "prepare",
    "start",
    "status",
    "stop",
    "undo",
]


def prepare(request: Request) -> Iterator[Answer]:
    """Make the run's directory and its supervisor, which holds the devices."""
    bundle = json.loads(request.payload.read())
    manifest = from_json(Manifest, bundle["manifest"])
    workdir = Workdir(request.root)
    prepared = prepare_run(
        workdir,
        manifest,
        worker_config=bundle["worker_config"],
        rank_table=bundle["rank_table"],
    )
    note_counts(workdir.run(manifest.run_id).attempt)
    yield Answer(prepared)


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


def _run(request: Request) -> RunDir:
    return runs.find(Workdir(request.root), request.args["run_id"])
