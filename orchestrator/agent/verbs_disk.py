"""The verbs that say what the disk of a host holds of ours, and that free it."""

from __future__ import annotations

from typing import Iterator

from orchestrator.agent import attempt_guard, disk_space
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.core.codec import to_json
from orchestrator.core.paths import Workdir

__all__ = ["disk_use", "remove_run", "sweep_store"]


def disk_use(request: Request) -> Iterator[Answer]:
    """What every run, and the content store, has on the disk."""
    yield Answer(to_json(disk_space.disk_use(Workdir(request.root))))


def remove_run(request: Request) -> Iterator[Answer]:
    """Remove a run that is over, or say what that would free."""
    args, workdir = request.args, Workdir(request.root)
    attempt_guard.require_claim(workdir, args["run_id"], attempt_guard.claim_in(args))
    yield Answer(disk_space.remove_run(workdir, args["run_id"], dry_run=args["dry_run"]))


def sweep_store(request: Request) -> Iterator[Answer]:
    """Remove the contents that no run was given, or say what that would free."""
    args = request.args
    yield Answer(
        disk_space.sweep_store(Workdir(request.root), without=args["without"], dry_run=args["dry_run"])
    )
