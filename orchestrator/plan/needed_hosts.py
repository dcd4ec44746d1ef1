"""The hosts that a job needs, said where no inventory is given: how many, with what on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.config.inventory import Inventory
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job import Job
from orchestrator.config.job_fields import is_path
from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import ConfigError, Problem, UsageError

__all__ = ["inventory_for"]

_NAMED = "name it with `-i`, as ./inventory.yaml or in ORCHESTRATE_INVENTORY"


def inventory_for(job: Job, path: Path | None) -> Inventory:
    """As `load_inventory`; where no inventory is found, ConfigError says which hosts this very job needs."""
    try:
        return load_inventory(path)
    except UsageError:
        if path is not None:
            raise
        raise ConfigError(list(_missing(job))) from None


def _missing(job: Job) -> Iterator[Problem]:
    count, each = job.host_count, job.devices_per_host
    hosts = "hosts" if count is None else f"{count} host{'s' * (count > 1)}"
    if job.device_target == "CPU":
        remedy = f"use `-i inventory/local.yaml` for this machine; of your own: {_NAMED}"
        yield Problem("", f"no inventory given: {job.name} runs on {hosts}, {each} ranks each", remedy)
    else:
        remedy = f"write your servers into a copy of inventory/ascend_12x8.yaml and {_NAMED}"
        yield Problem("", f"no inventory given: {job.name} runs on {hosts} with {each} NPUs each", remedy)
    for loc, text in _paths(job):
        if job.local_path(text) is None:
            yield Problem(job.where(*loc), plain(f"{text} must be there on every host"))


def _paths(job: Job) -> Iterator[tuple[tuple[str, str], str]]:
    """The files that the job names, but for a checkpoint that is distributed from here."""
    given = (
        (("data", "path"), job.data.path if job.data else None),
        (("data", "tokenizer"), job.data.tokenizer if job.data else None),
        (("model", "preset"), job.model.preset if job.model and is_path(job.model.preset) else None),
        (("checkpoint", "load"), None if job.checkpoint.distribute else job.checkpoint.load),
        (("predict", "prompts_file"), job.predict.prompts_file if job.predict else None),
    )
    yield from ((loc, text) for loc, text in given if text)
