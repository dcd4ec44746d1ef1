"""The spares of a job: hosts of the inventory's group `restart.spares` that stand ready to replace others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Host, Inventory
from orchestrator.config.job import Job
from orchestrator.config.yaml_messages import nearest, show
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.placement import choose_devices, spares_left_out
from orchestrator.rank_table.table import is_loopback

__all__ = ["kept_inventory", "spare_notes", "spares_of"]

_KEY = ("restart", "spares")
# `python3.11`, also at the end of a path; any other name tells nothing of its version.
_VERSION = re.compile(r"(?:.*/)?python(\d+\.\d+)", re.ASCII)


def spares_of(job: Job, inventory: Inventory, hosts: Sequence[Host], *, number: int = 1) -> tuple[Host, ...]:
    """The hosts of the job's spare group that are none of its own `hosts`, in the inventory's order.

    Raises ConfigError: a group that is not there or, for attempt `number` 1, has no host besides the job's;
    spares that could never take the place of one of `hosts`.
    """
    name = job.restart.spares
    if name is None:
        return ()
    group = name.removeprefix("@")
    if group not in inventory.groups:
        what = f"there is no group {show(group)} in {inventory.path}"
        remedy = nearest(group, list(inventory.groups)) or "add it under `groups:` there"
        raise ConfigError([Problem(job.where(*_KEY), what, remedy)])
    own = {host.name for host in hosts}
    members = set(inventory.groups[group])
    found = tuple(host for host in inventory.hosts if host.name in members - own)
    if not found and number == 1:
        what = f"the job runs on every host of {group} ({fold(members)}), so that none is left to stand ready"
        remedy = "add hosts to the group, or leave some out of `hosts`"
        raise ConfigError([Problem(job.where(*_KEY), what, remedy)])
    if problems := list(_unfit(job, hosts, found)):
        raise ConfigError(problems)
    return found


def spare_notes(job: Job, inventory: Inventory) -> tuple[str, ...]:
    """That `hosts: all` does not mean the spares, where it does not."""
    left_out = spares_left_out(job, inventory)
    if not left_out:
        return ()
    return (f"hosts: all leaves out {fold(left_out)}, which stand ready (restart.spares)",)


def kept_inventory(before: LaunchPlan, hosts: Sequence[Host] | None = None) -> Inventory:
    """The hosts of an attempt, or those that take their place, and its spares in the group of its job.

    It stands for the inventory of a run that goes on: that file may have changed, or be gone.
    """
    chosen = before.hosts if hosts is None else tuple(hosts)
    names = {host.name for host in chosen}
    spares = tuple(host for host in before.spares if host.name not in names)
    group = (before.restart.spares or "").removeprefix("@")
    groups = {group: tuple(host.name for host in spares)} if group else {}
    shown = Path(f"the hosts of {before.run_id}")
    copies = before.copies.over if before.copies is not None else None
    return Inventory(path=shown, hosts=(*chosen, *spares), groups=groups, ssh=before.ssh, copies=copies)


def _unfit(job: Job, hosts: Sequence[Host], spares: Sequence[Host]) -> Iterator[Problem]:
    """What is known beforehand of spares that could not take the place of a host of the job."""
    where, wanted = job.where(*_KEY), job.devices_per_host
    remedy = "take it out of the group"
    short: dict[int, list[str]] = {}
    for spare in spares:
        if choose_devices(spare, wanted) is None:
            short.setdefault(len(spare.devices), []).append(spare.name)
    for count, names in short.items():
        text = f"{fold(names)} has {count} devices, of which {wanted} are wanted on each host"
        yield Problem(where, f"{text}, in one HCCS ring" if count >= wanted else text, remedy)
    yield from _others(where, "chip", hosts, spares, lambda host: host.chip or "", remedy)
    yield from _others(where, "Python", hosts, spares, _version, f"set its `python:`, or {remedy}")
    is_one_machine = all(is_loopback(host.address) for host in hosts)
    apart = [spare.name for spare in spares if is_loopback(spare.address) != is_one_machine]
    if apart and job.networking.has_scheduler:
        what = (
            f"{fold(apart)} and the job's hosts do not reach each other: some of them have a loopback address"
        )
        yield Problem(where, what, "give the address at which the others reach it")


def _others(
    where: str,
    what: str,
    hosts: Sequence[Host],
    spares: Sequence[Host],
    value_of: Callable[[Host], str],
    remedy: str,
) -> Iterator[Problem]:
    """The spares of which something is known to be another than on all of the job's hosts."""
    usual = {value for host in hosts if (value := value_of(host))}
    others: dict[str, list[str]] = {}
    for spare in spares:
        value = value_of(spare)
        if usual and value and value not in usual:
            others.setdefault(value, []).append(spare.name)
    for value, names in others.items():
        text = f"{fold(names)} has {what} {value}, the job's hosts have {', '.join(sorted(usual))}"
        yield Problem(where, text, remedy)


def _version(host: Host) -> str:
    """Of the host's Python, where its name tells it."""
    found = _VERSION.fullmatch(host.python)
    return found[1] if found else ""
