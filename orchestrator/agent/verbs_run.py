"""The verbs that make, start and end a run, and look at what became of it."""

from __future__ import annotations

import binascii
import io
import json
import time
from typing import Iterator

from orchestrator.agent import attempt_guard, device_hold
from orchestrator.agent import host_runs as runs
from orchestrator.agent.cgroup_memory import note_counts
from orchestrator.agent.content_store import Store
from orchestrator.agent.prepare_run import prepare as prepare_run
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.claims import Tombstone
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.record_class import replace
from orchestrator.core.records import Claim, Manifest

__all__ = [
    "bury",
    "claim",
    "commit",
    "list_runs",
    "prepare",
    "release",
    "renew",
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
    # Small ones come along, so that there is no request for them alone.
    for sha256, text in (bundle.get("contents") or {}).items():
        data = binascii.a2b_base64(text)
        Store(workdir.store).receive(sha256, len(data), io.BytesIO(data))
    prepared = prepare_run(
        workdir,
        manifest,
        worker_config=bundle["worker_config"],
        rank_table=bundle["rank_table"],
        claim=attempt_guard.claim_in(request.args),
        more=bundle.get("files"),
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


def renew(request: Request) -> Iterator[Answer]:
    """A monitor is there: the lease of the workers begins anew. Of a run that is over it is that it is."""
    run = attempt_guard.acting(Workdir(request.root), request.args)
    yield Answer(runs.renew(run))


def release(request: Request) -> Iterator[Answer]:
    """Let go of the devices that are kept for a next attempt; one that runs will keep none."""
    run = runs.find(Workdir(request.root), request.args["run_id"])
    attempt_guard.take_claim(run, attempt_guard.claim_in(request.args))
    meant = attempt_guard.attempt_in(request.args)
    if meant is not None and meant.number <= (run.in_force or 1):
        attempt_guard.in_force(Workdir(request.root), request.args)  # refused where it is another one
    device_hold.release(run)  # also of an attempt before, after which this host was left out
    yield Answer()


def undo(request: Request) -> Iterator[Answer]:
    """Take a launch back; a run that is not there is as undone as can be."""
    args, workdir = request.args, Workdir(request.root)
    meant, claim = attempt_guard.attempt_in(args), attempt_guard.claim_in(args)
    attempt_guard.require_claim(workdir, args["run_id"], claim)
    runs.undo(workdir, args["run_id"], meant)
    yield Answer()


def _told(verb: str, request: Request) -> Answer:
    run = attempt_guard.acting(Workdir(request.root), request.args)
    return Answer(runs.tell(run, {"verb": verb, **request.args}))


def status(request: Request) -> Iterator[Answer]:
    """What became of a run's part on this host."""
    yield Answer(to_json(replace(runs.status(_run(request)), clock=time.time())))


def list_runs(request: Request) -> Iterator[Answer]:
    """Every run on this host, or the one asked for."""
    yield Answer(to_json(runs.list_runs(Workdir(request.root), request.args.get("run_id", ""))))


def claim(request: Request) -> Iterator[Answer]:
    """Let who asks act on the run from now on; without an `epoch` only who may."""
    run = runs.find(Workdir(request.root), request.args["run_id"])
    wanted = request.args.get("take")
    if wanted is not None:
        attempt_guard.take_claim(run, from_json(Claim, wanted), must_keep=True)
    yield Answer(to_json(runs.known_claim(run)))


def bury(request: Request) -> Iterator[Answer]:
    """End what still runs of an attempt that is over, or of one before it; what became of it."""
    run = runs.find(Workdir(request.root), request.args["run_id"])
    stone, meant = from_json(Tombstone, request.args["stone"]), attempt_guard.attempt_in(request.args)
    found = attempt_guard.bury(run, stone, meant)
    yield Answer(to_json(replace(found, clock=time.time())))


def _run(request: Request) -> RunDir:
    return attempt_guard.in_force(Workdir(request.root), request.args)
