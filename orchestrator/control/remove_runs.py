"""The removal of runs, here and on their hosts, and the disk space that they take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.agent.disk_space import bytes_below, remove_folder
from orchestrator.config.inventory import Host, SshOptions
from orchestrator.control.attempts import with_hosts_before
from orchestrator.control.monitor_process import end_monitor
from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.control.runs import current_record
from orchestrator.core.errors import AgentError, OrchestrateError, RunNotFound, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RunState
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.hosts.run_address import RunAddress
from orchestrator.plan.launch_plan import LaunchPlan, read_plan

__all__ = ["Removal", "Use", "disk_use", "old_runs", "remove_on_hosts", "remove_runs"]

# A run of a hundred thousand files takes a while to be gone.
_PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Removal:
    """What the removal of a run freed, in bytes: on hosts and here; `errors` of hosts that still have it.

    While there is one, the run stays known here. What the content stores had is told with the last run.
    """

    run_id: str
    hosts: Mapping[str, int] = field(default_factory=dict)
    here: int = 0
    stores: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, OrchestrateError] = field(default_factory=dict)

    @property
    def is_removed(self) -> bool:
        return not self.errors


@dataclass(frozen=True, slots=True)
class Use:
    """What is on the disks of the hosts of some runs; `errors` are of those that did not answer."""

    runs: Mapping[str, Mapping[str, int]]
    stores: Mapping[str, int]
    errors: Mapping[str, OrchestrateError]


def old_runs(
    runs: Sequence[ControlDir], *, older_than: float | None, keep: int | None, now: float
) -> list[ControlDir]:
    """Of all runs, oldest first, those that ended more than `older_than` seconds ago, the newest `keep` not.

    What has not ended, and what cannot be read, is not among them.
    """
    candidates = runs if keep is None else runs[: max(0, len(runs) - keep)]
    return [control for control in candidates if _ended_before(control, now - (older_than or 0.0))]


def _ended_before(control: ControlDir, when: float) -> bool:
    try:
        record = read_record(control)
    except RunNotFound:
        return False
    return record.state.is_terminal and (record.ended or record.updated) <= when


def remove_runs(
    runs: Sequence[ControlDir],
    *,
    dry_run: bool = False,
    here_only: bool = False,
) -> Iterator[Removal]:
    """Remove runs on their hosts, then here; one that goes on is refused before anything is removed.

    With `here_only` no host is asked: for hosts that are no more. Raises UsageError.
    """
    records = [_over(control, here_only) for control in runs]
    if here_only:
        for control in runs:
            yield Removal(control.run_id, here=_remove_here(control, dry_run))
        return
    begun = []
    addresses: dict[str, RunAddress] = {}
    for control, record in zip(runs, records, strict=True):
        if record.has_started:
            begun.append((control, with_hosts_before(control, read_plan(control.plan))))
            addresses[control.run_id] = address_of(record)
        else:  # its launch was refused before any host had something of it
            yield Removal(control.run_id, here=_remove_here(control, dry_run))
    for (hosts, ssh), controls in _by_hosts(begun):
        with fleet_of(hosts, ssh) as fleet:
            fleet.address(*(addresses[control.run_id] for control in controls))
            gone: list[str] = []
            for control in controls:
                removal = remove_on_hosts(fleet, control, dry_run)
                if removal.is_removed:
                    removal = replace(removal, here=_remove_here(control, dry_run))
                    gone.append(control.run_id)
                if control is controls[-1] and gone:
                    removal = replace(removal, stores=_sweep(fleet, gone, dry_run))
                yield removal


def _over(control: ControlDir, here_only: bool) -> RunRecord:
    """The record of a run that has ended."""
    record = read_record(control)
    if not record.state.is_terminal and not here_only:
        record = current_record(control)
    # Undone launches leave nothing that runs, and a host that cannot be asked is told apart below.
    if not record.state.is_terminal and not (here_only and record.state is RunState.PREPARING):
        raise UsageError(
            f"run {control.run_id} is {record.state}", remedy=f"`orchestrate stop {control.run_id}` ends it"
        )
    return record


def _by_hosts(
    runs: Iterable[tuple[ControlDir, LaunchPlan]],
) -> list[tuple[tuple[tuple[Host, ...], SshOptions], list[ControlDir]]]:
    """Runs of the same hosts together, so that each host is connected to once."""
    found: list[tuple[tuple[tuple[Host, ...], SshOptions], list[ControlDir]]] = []
    for control, plan in runs:
        key = (plan.hosts, plan.ssh)
        group = next((controls for other, controls in found if other == key), None)
        if group is None:
            found.append((key, [control]))
        else:
            group.append(control)
    return found


def remove_on_hosts(fleet: Fleet, control: ControlDir, dry_run: bool) -> Removal:
    """Remove a run on all hosts that can be reached, or on none where one refuses."""

    def remove(agent: Agent, *, dry_run: bool) -> int:
        try:
            return agent.remove_run(control.run_id, dry_run=dry_run, timeout=_PATIENCE)
        except AgentError as error:
            if error.kind == "no_run":
                return 0
            raise

    asked = fleet.each(lambda agent: remove(agent, dry_run=True))
    # A host that refuses, because a run that goes on reads from this one, keeps the others from losing it.
    if dry_run or any(isinstance(error, AgentError) for error in asked.errors.values()):
        return Removal(control.run_id, asked.values if dry_run else {}, errors=asked.errors)
    done = fleet.each(lambda agent: remove(agent, dry_run=False), asked.values)
    return Removal(control.run_id, done.values, errors={**asked.errors, **done.errors})


def _sweep(fleet: Fleet, without: Sequence[str], dry_run: bool) -> dict[str, int]:
    answers = fleet.each(lambda agent: agent.sweep_store(without, dry_run=dry_run, timeout=_PATIENCE))
    return answers.values


def _remove_here(control: ControlDir, dry_run: bool) -> int:
    nbytes = bytes_below(control.root)
    if not dry_run:
        end_monitor(control)
        remove_folder(control.root)
    return nbytes


def disk_use(runs: Sequence[ControlDir]) -> Use:
    """Ask the hosts of these runs what they have on their disks."""
    used: dict[str, dict[str, int]] = {}
    stores: dict[str, int] = {}
    errors: dict[str, OrchestrateError] = {}
    known = {control.run_id for control in runs}
    readable = []
    for control in runs:
        try:
            readable.append((control, with_hosts_before(control, read_plan(control.plan))))
        except RunNotFound as error:
            errors[control.run_id] = error
    for (hosts, ssh), _ in _by_hosts(readable):
        with fleet_of(hosts, ssh) as fleet:
            answers = fleet.each(lambda agent: agent.disk_use(timeout=_PATIENCE))
        errors.update(answers.errors)
        for host, answer in answers.values.items():
            stores[host] = answer.store
            for run in answer.runs:
                if run.run_id in known:
                    used.setdefault(run.run_id, {})[host] = run.nbytes
    return Use(used, stores, errors)
