"""The runs this control node knows, and those it finds again by asking the hosts.

Status: the record of a run as it is now, from its monitor or, where that is gone, from the hosts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.inventory import Inventory
from orchestrator.config.run_terms import Health, Timeouts
from orchestrator.config.schema import read
from orchestrator.config.yaml_messages import Invalid
from orchestrator.control.attempts import came_to_nothing, next_record, with_hosts_before
from orchestrator.control.found_runs import (
    by_run,
    highest_claim,
    newest_attempt,
    readable_record,
    tell_what_is_over,
)
from orchestrator.control.monitor_client import newest_record
from orchestrator.control.monitor_lock import living_monitor
from orchestrator.control.monitor_process import cannot_write, monitor_pid, watched_again
from orchestrator.control.our_claim import address_of, first_claim
from orchestrator.control.our_claim import take_over as take_run_over
from orchestrator.control.run_record import RunRecord, new_record, read_record, write_record
from orchestrator.core.errors import Interrupted, OrchestrateError, RunNotFound
from orchestrator.core.paths import ControlDir, state_root
from orchestrator.core.records import Claim, Manifest, RunOnHost
from orchestrator.core.safe_open import open_safely, own_folders
from orchestrator.core.states import RunState
from orchestrator.core.visible_text import visible
from orchestrator.plan.launch_plan import LaunchPlan, read_outline, write_plan
from orchestrator.plan.placement import Placement

if TYPE_CHECKING:
    from orchestrator.hosts.fleet import Fleet

__all__ = [
    "attach",
    "current_record",
    "find_run",
    "has_started",
    "interrupt_launch",
    "is_active",
    "known_runs",
    "make_control_dir",
    "rediscover",
    "survey_runs",
]

_UNDO_TIMEOUT = 60.0
_MOST_LISTED = 8
_OF_JOB = re.compile(r"-\d{8}-\d{6}-\w+\Z", re.ASCII)
# Where the record of a run says its state: before its hosts.
_RECORD_BEGIN = 1 << 14
# What hosts say of a launch that they undo by themselves if nobody goes on with it.
_UNFINISHED = frozenset({"prepared", "started"})
_ENDED = re.compile(rb'"state": ?"(?:succeeded|failed|stopped)"')


def known_runs(root: Path | None = None) -> list[ControlDir]:
    """Every run with a plan in the state directory, oldest first."""
    return survey_runs(root)[0]


def survey_runs(root: Path | None = None) -> tuple[list[ControlDir], list[str]]:
    """The known runs, and a line on each thing beside them that is none."""
    folders, others = own_folders((root or state_root()) / "runs")
    found: list[tuple[int, ControlDir]] = []
    for control in map(ControlDir, folders):
        try:
            found.append((os.lstat(control.plan).st_mtime_ns, control))
        except OSError as error:
            what = "half a run, without a plan" if isinstance(error, FileNotFoundError) else error.strerror
            others.append(f"{visible(str(control.root))}: {what}: passed over")
    return [control for _, control in sorted(found, key=lambda item: item[0])], others


def find_run(
    name: str | None, root: Path | None = None, *, started: bool = False, newest: bool = False
) -> ControlDir:
    """The run of this name or of this unique beginning; of several the one that is active.

    Without a name the run that is active or, where none is, the newest; with `started` the newest of those
    that ever started workers, if there is one: a launch that was refused has nothing to read. With `newest`
    the name of a job means the same among that job's runs. Raises RunNotFound, which lists the runs that it
    could be.
    """
    runs, others = survey_runs(root)
    if not runs and name is None:
        raise RunNotFound(
            "no run is known here", remedy="launch one, or `orchestrate runs --rediscover -i INVENTORY`"
        )
    if exact := [run for run in runs if run.run_id == name]:
        return exact[0]
    matches = [run for run in runs if name is None or run.run_id.startswith(name)]
    # A job's name is meant as such: `demo` is not the beginning of `demo2`.
    of_job = [run for run in matches if _OF_JOB.sub("", run.run_id) == name]
    matches = of_job or matches
    if not matches:
        for line in others:
            if f"/{name}: " in line:
                raise RunNotFound(line, remedy="remove it if it is nothing you know")
        raise RunNotFound(
            f"no run `{visible(str(name))}`", remedy="`orchestrate runs` lists those that are known"
        )
    active = [run for run in matches if is_active(run)] if len(matches) > 1 or name is None else matches
    if len(active) == 1:
        return active[0]
    if active:
        raise _several(name, active, True)
    return _of_ended(None if newest and of_job else name, matches, started)


def _of_ended(name: str | None, matches: Sequence[ControlDir], started: bool) -> ControlDir:
    """Without a name the newest; with one the only one, those that never started workers aside if need be."""
    with_workers = (run for run in reversed(matches) if started and has_started(run))
    if name is None:
        return next(with_workers, matches[-1])
    found = list(with_workers) or matches
    if len(found) > 1:
        raise _several(name, matches, False)
    return found[0]


def has_started(control: ControlDir) -> bool:
    """Whether any host ever told of workers of this run; False where its record cannot be read."""
    try:
        return read_record(control).has_started
    except RunNotFound:
        return False


def _several(name: str | None, runs: Sequence[ControlDir], are_active: bool) -> RunNotFound:
    """The error of a name, or of none, that could be any of these."""
    listed = [run.run_id for run in reversed(runs)]
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    which = f"{', '.join(listed[:_MOST_LISTED])}{more}"
    if name is None:
        return RunNotFound(f"{len(runs)} runs are active: {which}", remedy="name the one that you mean")
    count = len(runs)
    what = f"{count} active runs" if are_active else f"{count} runs, none of them known to be active"
    return RunNotFound(f"`{visible(name)}` fits {what}: {which}", remedy="give more of the name")


def is_active(control: ControlDir) -> bool:
    """Whether the run has not ended, as far as is known here; False where its record cannot be read."""
    try:
        with os.fdopen(open_safely(control.record, control.runs), "rb") as file:
            begin = file.read(_RECORD_BEGIN)
    except OSError:
        return False
    # What has ended does so for ever, and a record of many ranks takes long to read whole.
    if _ENDED.search(begin.partition(b'"hosts"')[0]):
        return False
    try:
        return not read_record(control).state.is_terminal
    except RunNotFound:
        return False


def make_control_dir(plan: LaunchPlan, root: Path | None = None, claim: Claim | None = None) -> ControlDir:
    """Create a run's directory on the control node, with its plan and a first record.

    With the `claim` of who launches it, unless another one is given.
    """
    control = ControlDir((root or state_root()) / "runs" / plan.run_id)
    control.make(plan.attempt.number)
    write_record(control, new_record(plan, claim or first_claim(control)))
    # Last: a directory counts as a run once it has its plan.
    write_plan(control.plan, plan)
    return control


def interrupt_launch(control: ControlDir, *, begun: bool = True) -> None:
    """Have the monitor undo a launch that is still under way, and return when it has.

    One that had not `begun`, for its monitor had not been told to, is no launch any more.
    """
    pid = monitor_pid(control)
    if pid is None and begun:
        return
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _UNDO_TIMEOUT
    while monitor_pid(control) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    record = read_record(control)
    if monitor_pid(control) is None and record.state is RunState.PREPARING:
        # It was caught before it could begin, and so before it could say anything.
        lines = ["the launch was interrupted"]
        back = came_to_nothing(control, record, lines, Interrupted.exit_code, time.time())
        write_record(control, back)
        if record.attempts[-1].number != back.attempts[-1].number:
            control.discard(record.attempts[-1].number)


def rediscover(
    inventory: Inventory, root: Path | None = None
) -> tuple[list[str], dict[str, OrchestrateError]]:
    """Ask every host for its runs and make the unknown ones known.

    Returns a line on each thing among a host's runs that cannot be read, and which hosts failed.
    """
    known = {run.run_id: run for run in known_runs(root)}
    # Late: most commands ask no host, and people wait for them.
    from orchestrator.hosts.allocation import StaticAllocation

    with StaticAllocation(inventory.hosts, inventory.ssh).fleet() as fleet:
        answers = fleet.each(lambda agent: agent.list_runs())
        told = [(host, run) for host, runs in answers.values.items() for run in runs]
        others = [f"{host}: {run.problem}" for host, run in told if run.problem]
        found = by_run(answers.values)
        plans = []
        for run_id, there in found.items():
            ours = known.get(run_id)
            others += tell_what_is_over(fleet, there, None if ours is None else readable_record(ours))
            try:
                if ours is not None:
                    _follow_newest(ours, there, inventory, fleet)
                else:
                    plans.append(_plan_again(inventory, newest_attempt(there)))
            except Invalid as error:  # of a launch that was none
                others.append(f"{run_id}: its manifest cannot be read: {str(error).splitlines()[0]}")
        for plan in sorted(plans, key=lambda plan: plan.created):
            _record_again(plan, highest_claim(found[plan.run_id]), fleet, root)
    return others, answers.errors


def _follow_newest(
    control: ControlDir, there: Mapping[str, RunOnHost], known: Inventory | LaunchPlan, fleet: Fleet
) -> None:
    """Where another control node has begun a later attempt of a run, its record here is of that one.

    `known` has the hosts. A run whose monitor lives here is left to that.
    """
    record, manifests = readable_record(control), newest_attempt(there)
    if record is None or not manifests or monitor_pid(control) is not None:
        return
    plan = _plan_again(known, manifests)
    if plan.attempt.number <= record.attempts[-1].number or control.in_force is None:
        return
    control.folder_of(plan.attempt.number).mkdir(mode=0o700, exist_ok=True)
    write_plan(control.plan_of(plan.attempt.number), plan)
    record = next_record(record, plan, time.time())
    with fleet.part(host.name for host in plan.hosts) as part:
        part.address(address_of(record))
        write_record(control, _looked_at(record, part, plan.timeouts))
    control.put_in_force(plan.attempt.number)


def _plan_again(inventory: Inventory | LaunchPlan, manifests: Mapping[str, Manifest]) -> LaunchPlan:
    """What can be known of a launch from the manifests it left; enough to watch, stop and collect it."""
    first = next(iter(manifests.values()))
    launch: Mapping[str, Any] = first.launch
    return LaunchPlan(
        run_id=first.run_id,
        job_name=first.job,
        task=str(launch.get("task", "command")),
        created=first.created,
        hosts=tuple(host for host in inventory.hosts if host.name in manifests),
        ssh=inventory.ssh,
        placements=_placements_again(manifests),
        manifests=dict(manifests),
        worker_config="",
        rank_table=None,
        sources={},
        packages=(),
        host_paths=(),
        chooses_port=False,
        ascend=False,
        uses_rank_table=False,
        timeouts=read(Timeouts, launch.get("timeouts", {})),
        health=read(Health, launch.get("health", {})),
        attempt=first.attempt,
    )


def _placements_again(manifests: Mapping[str, Manifest]) -> tuple[Placement, ...]:
    placements = [
        Placement(
            rank=worker.rank,
            host=host,
            local_rank=worker.local_rank,
            device_id=worker.device_id,
            device_ip=None,
            dp=0,
            mp=0,
            pp=0,
        )
        for host, manifest in manifests.items()
        for worker in manifest.workers
    ]
    return tuple(sorted(placements, key=lambda placement: placement.rank))


def _record_again(plan: LaunchPlan, held: Claim, fleet: Fleet, root: Path | None) -> None:
    control = ControlDir((root or state_root()) / "runs" / plan.run_id)
    # What this control node held before it forgot all is still its own; of others it only watches.
    claim = held if held.holder == first_claim(control).holder else Claim(0, held.holder)
    make_control_dir(plan, root, claim)
    when = int(plan.created * 1e9)
    os.utime(control.plan, ns=(when, when))
    with fleet.part(host.name for host in plan.hosts) as part:
        part.address(address_of(new_record(plan, claim)))
        write_record(control, _looked_at(new_record(plan, claim), part, plan.timeouts))


def current_record(control: ControlDir) -> RunRecord:
    """The record, brought up to date by asking the hosts if no monitor does that; it gets another one then.

    Raises PreflightError where none can be started.
    """
    if (told := newest_record(control)) is not None:
        return told
    record = read_record(control)
    if living_monitor(control) is not None:
        return watched_again(control, record)
    plan = read_outline(control.plan)
    # A launch whose monitor died is finished or undone by the next one; by the hosts when its lease is over.
    is_young = record.state is RunState.PREPARING and time.time() < record.updated + plan.timeouts.prepare
    # Between two attempts hosts only say that the last one is over; the next monitor goes on with the run.
    restarts = record.state is RunState.RESTARTING
    if not (record.state.is_terminal or is_young or restarts):
        from orchestrator.hosts.allocation import StaticAllocation

        with StaticAllocation(plan.hosts, plan.ssh).fleet() as fleet:
            fleet.address(address_of(record))
            record = _launched_so_far(record, _looked_at(record, fleet, plan.timeouts))
        if living_monitor(control) is not None or (last := read_record(control)).state.is_terminal:
            return read_record(control)
        if record.state is RunState.FAILED and plan.restart.max:
            return watched_again(control, last)  # whether the run goes on is for its monitor to decide
        record = dataclasses.replace(record, watched=last.watched or last.updated)
        try:
            write_record(control, record)
        except OSError as error:
            raise cannot_write(control, error) from error
    return watched_again(control, record)


def _looked_at(record: RunRecord, fleet: Fleet, timeouts: Timeouts) -> RunRecord:
    from orchestrator.control.watch import look_once

    return look_once(record, fleet, timeouts)


def _launched_so_far(before: RunRecord, seen: RunRecord) -> RunRecord:
    """What was seen of a launch that nobody had finished: while a host may undo it, nothing runs yet."""
    phases = {host.status.phase for host in seen.hosts.values() if host.status is not None}
    if before.state is not RunState.PREPARING or seen.state.is_terminal or not phases & _UNFINISHED:
        return seen
    return dataclasses.replace(seen, state=RunState.PREPARING, phase=before.phase)


def attach(
    control: ControlDir, *, take_over: bool = False, say: Callable[[str], None] = lambda line: None
) -> RunRecord:
    """Make sure that a run which has not ended has a monitor; the record, with whether it had none.

    With `take_over` this control node acts on the run from now on, and no other does. `say` is told in a line
    of each host that could not be told: it learns of it when it is first asked something.
    """
    if take_over:
        from orchestrator.hosts.allocation import StaticAllocation

        plan = with_hosts_before(control, read_outline(control.plan))
        with StaticAllocation(plan.hosts, plan.ssh).fleet() as fleet:
            for error in take_run_over(control, fleet).values():
                say(str(error))
            told = fleet.each(lambda agent: agent.list_runs(control.run_id)).values
            if there := by_run(told).get(control.run_id):
                _follow_newest(control, there, plan, fleet)
    return watched_again(control, read_record(control), at_once=True)
