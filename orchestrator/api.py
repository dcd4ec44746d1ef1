"""The Python interface: what the command line does, as functions with typed results.

    from orchestrator import api

    run = api.launch("jobs/demo.yaml", "inventory/local.yaml")
    for record in api.watch(run):
        print(record.state)
    api.collect(run, "out.ckpt")

A run is named by what `launch` returned, its id or the beginning of it, or its job's name; None means the
one that is active or, where none is, the newest. Every function raises OrchestrateError: ConfigError and
UsageError for what was asked, TransportError for hosts out of reach, PreflightError for those that are unfit,
HostsFailed for several. `error.exit_code` and `error.lines()` are what the command line would say.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.control import runs as known
from orchestrator.control.monitor_client import Follower
from orchestrator.control.monitor_process import watched_again
from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.core.ends import StopReason
from orchestrator.core.errors import UsageError
from orchestrator.core.paths import ControlDir as Run
from orchestrator.plan.launch_plan import LaunchPlan

if TYPE_CHECKING:
    import fabric

    from orchestrator.checkpoint.copy_options import CopyOptions
    from orchestrator.checkpoint.copy_options import Report as CopyReport
    from orchestrator.config.job import Job
    from orchestrator.control.log_fold import FoldedLine
    from orchestrator.control.log_stream import LogBatch, LogLine
    from orchestrator.control.remove_runs import Removal
    from orchestrator.control.time_account import TimeAccount
    from orchestrator.preflight.report import Report
    from orchestrator.transfer.collect import Collected, Collection
    from orchestrator.transfer.collect_run import DryRun
    from orchestrator.transfer.distribute import Progress, Tell

__all__ = [
    "Planned",
    "Run",
    "RunRecord",
    "attach",
    "check",
    "collect",
    "collect_dry_run",
    "connection",
    "find",
    "folded_logs",
    "is_active",
    "launch",
    "log_batches",
    "logs",
    "may_live_on",
    "metrics",
    "plan",
    "record",
    "remove",
    "runs",
    "start",
    "status",
    "stop",
    "time_account",
    "watch",
]

_File = str | Path


@dataclass(frozen=True, slots=True)
class Planned:
    """A job and what its launch would do."""

    job: Job
    plan: LaunchPlan


def runs() -> list[Run]:
    """The runs that this control node knows, oldest first."""
    return known.known_runs()


def find(run: Run | str | None = None, *, started: bool = False, newest: bool = False) -> Run:
    """The run that is meant; with `started` rather one that has had workers than a launch that was refused.

    With `newest` the name of a job whose runs have all ended means the newest of them. Raises RunNotFound
    where there is none, or more than one.
    """
    return run if isinstance(run, Run) else known.find_run(run, started=started, newest=newest)


def is_active(run: Run | str) -> bool:
    """Whether a run has not ended, as far as this control node knows; no host is asked."""
    return known.is_active(find(run))


def record(run: Run | str | None = None) -> RunRecord:
    """What is known here of the run; no host is asked."""
    return read_record(find(run))


def may_live_on(run: Run | str) -> bool:
    """Whether a run that has ended may have left something on hosts that did not answer then: workers, on one
    that was lost, or devices that are held for a next attempt."""
    found = record(run)
    is_held = found.held is not None and bool(found.held.at(time.time()))
    return is_held or any(view.lost for view in found.hosts.values())


def plan(
    job: _File,
    inventory: _File | None = None,
    overrides: Mapping[str, object] | Sequence[str] = (),
    *,
    accept_new_host_keys: bool = False,
    discover: bool = False,
) -> Planned:
    """Read a job and an inventory and plan the launch; with `discover` the hosts' own tools are asked.

    `overrides` changes values of the job: `{"train.steps": 10}` or `["train.steps=10"]`. The inventory is by
    default $ORCHESTRATE_INVENTORY, ./inventory.yaml or ./inventory/default.yaml. Raises ConfigError with
    every problem that was found.
    """
    # Late, as all that only one verb needs: a command line imports this module at each start.
    from orchestrator.control.launch import discover_devices, plan_launch

    servers, given = None if inventory is None else Path(inventory), _assignments(overrides)
    loaded, planned = plan_launch(Path(job), servers, given, accept_new_host_keys=accept_new_host_keys)
    return Planned(loaded, discover_devices(planned) if discover else planned)


def _assignments(overrides: Mapping[str, object] | Sequence[str]) -> Sequence[str]:
    if not isinstance(overrides, Mapping):
        return overrides
    # JSON is YAML, in which a text that looks like a number stays a text.
    return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]


def start(planned: Planned, progress: Progress | None = None, tell: Tell | None = None) -> Run:
    """Launch what was planned, and return at once: a monitor process of its own starts and watches the run.

    Where the job wants its checkpoint distributed that is done first: `with_shards` has the other arguments.
    """
    from orchestrator.control.launch import launch as begin

    launched = planned.plan
    if planned.job.checkpoint.distribute:
        from orchestrator.transfer.distribute_launch import with_shards

        launched = with_shards(planned.job, launched, progress, tell=tell)
    return begin(launched)


def launch(
    job: _File,
    inventory: _File | None = None,
    overrides: Mapping[str, object] | Sequence[str] = (),
    *,
    accept_new_host_keys: bool = False,
) -> Run:
    """`plan` and `start`. How the launch goes, `watch` tells."""
    return start(plan(job, inventory, overrides, accept_new_host_keys=accept_new_host_keys))


def status(run: Run | str | None = None) -> RunRecord:
    """Where the run is now, by its monitor or, where that is gone, by the hosts.

    Of each of its `attempts` it has how it ended and the `decision` that was made then.
    """
    return known.current_record(find(run))


def time_account(run: Run | str | None = None) -> TimeAccount:
    """For what the time of a run was used, from its launch until its end, or until what is known here now.

    Seconds that add up: `productive`, `lost`, `waiting`, `restarting`, `saving`, `starting`, `down`,
    `unknown`. No host is asked.
    """
    from orchestrator.control.time_account import account_of_run

    found = record(run)
    return account_of_run(found, found.updated)


def watch(run: Run | str | None = None, *, interval: float = 0.2, waits: bool = True) -> Iterator[RunRecord]:
    """The run's record every `interval` seconds until it has ended; the last one is that of its end.

    Without `waits` it is given at once whenever it is asked for. A run whose monitor has died gets another
    one.
    """
    control = find(run)
    with Follower(control, interval) as follower:
        record = follower.newest(0.0)
        while True:
            if not follower.is_told:  # by its monitor, who lives then
                record = watched_again(control, record)
            yield record
            if record.state.is_terminal:
                return
            record = follower.newest(None if waits else 0.0)


def attach(run: Run | str | None = None, *, take_over: bool = False) -> Run:
    """Make sure that a run has a monitor; with `take_over`, that only this control node acts on it."""
    control = find(run)
    known.attach(control, take_over=take_over)
    return control


def log_batches(
    run: Run | str | None = None,
    *,
    ranks: Sequence[int] | None = None,
    host: str | None = None,
    scheduler: bool = False,
    follow: bool = False,
    tail: int | None = None,
    block: int = 1 << 20,
    attempt: int | None = None,
    begun: Callable[[int], None] = lambda number: None,
) -> Iterator[LogBatch | None]:
    """What the workers wrote, many lines at a time as they come: of all ranks, of these, or of one host.

    Or of the scheduler. None comes where there is nothing just now. Lines of one worker keep their order;
    about `block` bytes of a log are read at a time, or less. With `follow` it goes on until the run has
    ended, with each attempt that follows; `tail` begins so many lines before the end of each log. `attempt`
    is by default the one in force; one that is named is the only one. `begun` is told the number of each
    attempt whose lines come. Raises UsageError where no rank fits, or there is no such attempt.
    """
    from orchestrator.control.attempt_logs import Wanted, batches_of

    wanted = Wanted(ranks, host, scheduler, tail, block)
    yield from batches_of(find(run, started=True), wanted, follow=follow, attempt=attempt, begun=begun)


def logs(
    run: Run | str | None = None,
    *,
    ranks: Sequence[int] | None = None,
    host: str | None = None,
    scheduler: bool = False,
    follow: bool = False,
    tail: int | None = None,
    attempt: int | None = None,
) -> Iterator[LogLine]:
    """`log_batches`, line by line. A line of more than 64 kB to 1 MB comes in pieces (`goes_on`)."""
    from orchestrator.control.log_stream import iter_lines

    yield from iter_lines(
        log_batches(
            run, ranks=ranks, host=host, scheduler=scheduler, follow=follow, tail=tail, attempt=attempt
        )
    )


def folded_logs(
    run: Run | str | None = None,
    *,
    ranks: Sequence[int] | None = None,
    host: str | None = None,
    follow: bool = False,
    tail: int | None = None,
) -> Iterator[FoldedLine]:
    """`logs`, with equal lines of several workers as one."""
    from orchestrator.control.log_fold import FOLDED_BLOCK, fold_lines

    batches = log_batches(run, ranks=ranks, host=host, follow=follow, tail=tail, block=FOLDED_BLOCK)
    yield from fold_lines(batches)


def metrics(run: Run | str | None = None, *, rank: int = 0) -> list[dict[str, Any]]:
    """What a rank has told of its steps, by step, over all attempts: the newest that made a step counts."""
    from orchestrator.control.metrics_curve import curve_of

    control = find(run, started=True)
    return curve_of(control, read_record(control), rank)


def stop(
    run: Run | str | None = None,
    reason: str = "stopped through the Python interface",
    *,
    say: Callable[[str], None] | None = None,
    now: bool = False,
) -> RunRecord:
    """End every worker: SIGTERM, the job's grace period, SIGKILL. The record once nothing is left.

    Ranks that announced it save a checkpoint first, for which they get the time that steps and saves took;
    with `now` nobody gets any.

    Stopping what has ended is no error. Raises the errors of hosts that could not be reached; the others are
    stopped all the same. `say` is told what is out of the ordinary, a line each; without it that is logged.
    """
    from orchestrator.control.stop import stop_run

    reasoned = replace(StopReason.requested(reason), now=now)
    return stop_run(find(run), reasoned) if say is None else stop_run(find(run), reasoned, say=say)


def remove(runs: Sequence[Run | str], *, dry_run: bool = False, here_only: bool = False) -> Iterator[Removal]:
    """Remove runs that have ended, here and on their hosts; what each freed, as it is done.

    Raises UsageError, before anything is removed, where one of them goes on.
    """
    from orchestrator.control.remove_runs import remove_runs

    return remove_runs([find(run) for run in runs], dry_run=dry_run, here_only=here_only)


def collect(
    run: Run | str | None = None,
    output: _File | None = None,
    wanted: Collection | None = None,
    *,
    with_logs: bool = False,
    options: CopyOptions | None = None,
    report: CopyReport | None = None,
) -> Collected:
    """Combine the shards of a run into one file, with the model's configuration and tokenizer beside it.

    `output` is by default collected/RUN/JOB.FORMAT; `wanted` says which step, in which format and type, with
    the optimizer's state or without. A collection that broke off goes on where it was.
    """
    from orchestrator.transfer.collect import Collection
    from orchestrator.transfer.collect_run import collect_run, default_output, format_of

    control, path = find(run, started=True), None if output is None else Path(output)
    chosen = wanted or Collection(format=format_of(path))
    path = path or default_output(control, chosen.format)
    return collect_run(control, chosen, path, options, report, with_logs=with_logs)


def collect_dry_run(
    run: Run | str | None = None, wanted: Collection | None = None, *, via_hosts: bool = False
) -> DryRun:
    """What `collect` would read from where; hosts are asked, nothing is written."""
    from orchestrator.transfer.collect import Collection
    from orchestrator.transfer.collect_run import dry_run

    return dry_run(find(run, started=True), wanted or Collection(), via_hosts=via_hosts)


def check(
    inventory: _File | None = None,
    job: _File | None = None,
    overrides: Mapping[str, object] | Sequence[str] = (),
    *,
    full_mesh: bool = False,
    accept_new_host_keys: bool = False,
    begun: Callable[[int], None] | None = None,
    seen: Callable[[str], None] | None = None,
) -> Report:
    """Whether the servers are fit, for a job or at all; nothing is changed on them.

    A host that does not answer is a row of the report, which has the exit code. `overrides` as for `plan`.
    `begun` is told how many hosts are asked, once all files have been read; `seen` the name of every host
    that has answered, from the thread that asked it.
    """
    from orchestrator.config.inventory_file import load_inventory
    from orchestrator.config.job_file import load_job
    from orchestrator.control.check import check as check_hosts

    hosts = load_inventory(None if inventory is None else Path(inventory))
    if accept_new_host_keys:
        hosts = hosts.accepting_new_host_keys()
    loaded = load_job(Path(job), _assignments(overrides)) if job else None
    return check_hosts(hosts, loaded, full_mesh=full_mesh, begun=begun, seen=seen)


def connection(
    host: str, inventory: _File | None = None, *, accept_new_host_keys: bool = False
) -> fabric.Connection:
    """A Fabric connection to a host of an inventory, for what is yours to do there: `run`, `put`, `get`.

    It goes the way that all commands go: the address, account, key and jump hosts of inventory and SSH
    configuration, and no unknown host key. Raises UsageError for a host that is not in the inventory or not
    reached by SSH, TransportError where it cannot be reached.
    """
    from orchestrator.config.inventory_file import load_inventory

    servers = load_inventory(None if inventory is None else Path(inventory))
    if accept_new_host_keys:
        servers = servers.accepting_new_host_keys()
    found = next((each for each in servers.hosts if each.name == host), None)
    if found is None or found.transport == "local":
        what = "is no host of the inventory" if found is None else "is this machine: no connection is needed"
        raise UsageError(f"{host} {what}", remedy="name a host that the inventory reaches over SSH")
    from orchestrator.hosts.ssh.connection import SshTransport

    return SshTransport(found, servers.ssh).as_fabric()
