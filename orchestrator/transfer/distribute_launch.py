"""The checkpoint that a job wants distributed, before an attempt of it is launched that begins with it."""

from __future__ import annotations

import dataclasses
import tempfile
from contextlib import ExitStack
from pathlib import Path

from orchestrator.config.job import Job
from orchestrator.config.mindformers_job import MINDFORMERS
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.mindformers_load import pointed
from orchestrator.preflight.gather_facts import look_at_hosts
from orchestrator.preflight.host_facts import needs_of
from orchestrator.transfer.distribute import (
    LOADED,
    Progress,
    Tell,
    cut_for,
    distribute,
    hash_shards,
    with_inputs,
)
from orchestrator.transfer.mindformers_share import share_of

__all__ = ["with_shards"]


def with_shards(
    job: Job,
    plan: LaunchPlan,
    progress: Progress | None = None,
    fleet: Fleet | None = None,
    tell: Tell | None = None,
) -> LaunchPlan:
    """Where the job says `checkpoint.distribute`: its checkpoint sent, and the plan that puts it in place.

    Other plans are given back as they are. How far it is, is told to `progress`; what was taken of the
    checkpoint, say which step, to `tell`, a line each, and stands in the plan's notes. `fleet` are hosts that
    were found fit already; else they are looked at first. Raises what `cut_for`, `share_of` and `distribute`
    raise, and, before anything is sent, what keeps a host from running the job.
    """
    file = job.whole_checkpoint
    if file is None:
        return plan
    with ExitStack() as stack:
        if fleet is None:
            # The launch checks again; but who would be refused is not to get hundreds of gigabytes before.
            look_at_hosts(needs_of(plan), plan.ssh).raise_on_failure()
        if plan.task == MINDFORMERS:
            spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchestrate-")))
            share = share_of(job, plan, file, spool)
            shards = share.shards
            if tell is not None:
                for note in share.notes:
                    tell(note)
            notes, text = (*plan.notes, *share.notes), pointed(plan.run_yaml, share.words)
            plan = dataclasses.replace(plan, run_yaml=text, notes=notes)
        else:
            shards = cut_for(job, plan.placements, file)
        hashes = hash_shards(shards, progress)
        asked = stack.enter_context(
            fleet_of(plan.hosts, plan.ssh) if fleet is None else fleet.part(shards.ranks)
        )
        distribute(asked, shards, hashes, progress)
    return with_inputs(plan, shards.inputs(hashes, LOADED))
