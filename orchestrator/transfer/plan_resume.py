"""The plan of a run's next attempt: which step it goes on from, and which bytes have to move for it.

Nothing is moved here: hosts are asked what they have, and whether it is whole. What is on a rank's own host
already stays where it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.checkpoint.assemble import Assembled
from orchestrator.checkpoint.copy_plan import plan_copies, rank_outputs, whole_output
from orchestrator.checkpoint.cut.attempt_steps import SavedAttempt
from orchestrator.checkpoint.cut.coverage import is_weight
from orchestrator.config.inventory import Host
from orchestrator.config.job import Job
from orchestrator.config.job_network import network_of
from orchestrator.config.mindformers_job import MINDFORMERS
from orchestrator.config.tasks import TRAINING
from orchestrator.control.copied_files import owners_word
from orchestrator.control.resume import Changes, NextJob, next_job, require_ended
from orchestrator.control.run_record import RunRecord
from orchestrator.control.runs import current_record
from orchestrator.core.errors import CheckpointError, ConfigError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Load
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.plan.launch_plan import LaunchPlan, read_plan
from orchestrator.plan.mindformers_load import pointed
from orchestrator.plan.next_plan import next_plan, saved_layout
from orchestrator.transfer.copied_shards import copies_read
from orchestrator.transfer.distribute import cut_of
from orchestrator.transfer.mindformers_resume import choose_mindformers, require_steps_left
from orchestrator.transfer.mindformers_saves import load_name, saves_of
from orchestrator.transfer.program_checkpoints import newest_checkpoint, telling
from orchestrator.transfer.saved_attempts import (
    CheckedStep,
    assembled,
    choose_checked,
    gather_saved,
    plans_of,
)

__all__ = [
    "Moves",
    "Resumption",
    "plan_next",
    "plan_resume",
    "shard_name",
    "with_mindformers_step",
]

_GO_ON = (*TRAINING, MINDFORMERS)
"""The tasks whose workers go on from a step that is chosen here."""


@dataclass(frozen=True, slots=True)
class Moves:
    """What has to be moved, in bytes by host. `in_place` are the ranks whose host has their shard.

    `collected` is read from each host, `sent` goes to each; `anew`: in another layout, so that the step is
    put together here, and cut again.
    """

    in_place: tuple[int, ...] = ()
    collected: Mapping[str, int] = field(default_factory=dict)
    sent: Mapping[str, int] = field(default_factory=dict)
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Resumption:
    """What going on with a run means; `step` is None where it begins anew.

    `record` is that of the attempt before, where that matters.
    """

    control: ControlDir
    before: LaunchPlan
    plan: LaunchPlan
    job: Job
    hosts: tuple[Host, ...]
    step: CheckedStep | None = None
    moves: Moves = Moves()
    notes: tuple[str, ...] = ()
    record: RunRecord | None = None

    @property
    def at(self) -> tuple[int, int]:
        """(attempt, step) that it goes on from; (0, 0): from the beginning."""
        return self.step.step.at if self.step is not None else (0, 0)


def plan_resume(control: ControlDir, changes: Changes) -> Resumption:
    """Plan the next attempt of a run: asks its hosts what they have, and moves nothing.

    `changes.step` is the step to go on from, by default the newest that is complete over all hosts; 0: from
    the beginning. Raises UsageError for a run that cannot go on, ConfigError for what does not fit the run,
    CheckpointError where no step is complete, with what lacks where.
    """
    record, before = current_record(control), read_plan(control.plan)
    wanted = next_job(before, changes)
    require_ended(record, before, wanted, changes.step)
    if changes.step and wanted.job.task not in _GO_ON:
        raise UsageError(
            f"task {wanted.job.task} has no steps of ours to go on from", remedy="leave out --step"
        )
    return plan_next(control, record, before, wanted, step=changes.step, overrides=changes.overrides)


def plan_next(
    control: ControlDir,
    record: RunRecord,
    before: LaunchPlan,
    wanted: NextJob,
    *,
    step: int | None = None,
    overrides: Sequence[str] = (),
    fleet: Fleet | None = None,
) -> Resumption:
    """Plan the attempt after `before`, as `plan_resume` does, of a job that was chosen for it.

    `fleet` are the hosts to ask where there are connections already, those that answer; else all that the run
    has ever had are asked.
    """
    fresh = wanted.job.task not in _GO_ON or step == 0
    by_itself = fleet is not None
    plan = next_plan(
        before, wanted.job, wanted.inventory, fresh=fresh, by_itself=by_itself, overrides=overrides
    )
    # Of MindFormers' tasks only trainings have steps, which the run YAML tells.
    fresh = fresh or (plan.task == MINDFORMERS and plan.origin is not None)
    notes: tuple[str, ...] = (*wanted.notes, *plan.notes)
    plans = plans_of(control, record, before if fleet is not None else None)
    copied = [number for number, one in plans.items() if one.copies is not None]
    hosts, said = _all_hosts(plans, plan), owners_word(control, record, copied)
    if fresh and (wanted.job.task != "command" or step is not None):
        return Resumption(control, before, plan, wanted.job, plan.hosts, notes=notes)
    with contextlib.nullcontext(fleet) if fleet is not None else fleet_of(hosts, plan.ssh) as asked:
        if fresh:
            plan, lines = _told_to_program(plan, plans, asked)
            return Resumption(control, before, plan, wanted.job, plan.hosts, notes=(*notes, *lines))
        attempts, silent = gather_saved(asked, plan.run_id, plans, said)
        placed = {item.rank: item.host for item in plan.placements}
        layout = _layout(plan)
        alike = [number for number, one in plans.items() if _layout(one) == layout]
        try:
            if plan.task == MINDFORMERS:
                told = (*notes, *silent)
                begun = Resumption(control, before, plan, wanted.job, hosts, notes=told, record=record)
                return with_mindformers_step(begun, asked, attempts, alike, step)
            found = choose_checked(asked, attempts, placed=placed, same_layout=alike, step=step)
        except CheckpointError as error:
            what = f"{error.what}{'; ' if silent else ''}{'; '.join(silent)}"
            begin = f"`orchestrate resume {plan.run_id} --step 0` begins anew"
            remedy = f"{error.remedy}; {begin}" if error.remedy else begin
            raise CheckpointError(what, where=error.where, remedy=remedy) from None
        # Who goes on by itself does so with the network that was saved; what each rank takes is known then.
        is_known = fleet is not None and found.sources is not None
        whole = None if is_known else assembled(asked, found)
    if whole is not None:
        _require_network(wanted.job, whole)
    _require_steps_left(wanted.job, found, plan.run_id)
    moves = (
        _moves_in_place(found, placed)
        if found.sources is not None or whole is None
        else _moves_anew(wanted.job, plan, whole)
    )
    told = (*notes, *silent, *found.step.notes(), *copies_read(found.files), *_unsummed(found))
    plan = dataclasses.replace(plan, origin=found.step.at, loads=_loads(found, placed, plan))
    return Resumption(control, before, plan, wanted.job, hosts, found, moves, told)


def _layout(plan: LaunchPlan) -> tuple[object, ...]:
    """What an attempt's shards are cut by: equal where they can be loaded as they are."""
    saves = saves_of(plan)
    return saved_layout(plan) if saves is None else saves.layout


def with_mindformers_step(
    found: Resumption,
    fleet: Fleet,
    attempts: Sequence[SavedAttempt],
    alike: Sequence[int],
    step: int | None,
) -> Resumption:
    """What going on means for a run whose workers are MindFormers' own, which are told by their run YAML.

    `alike` are the attempts in the layout of the next one. CheckpointError: no step is whole; UsageError: one
    is, in another layout.
    """
    plan = found.plan
    placed = {item.rank: item.host for item in plan.placements}
    chosen = choose_mindformers(fleet, plan, attempts, same_layout=alike, step=step)
    checked = chosen.step
    require_steps_left(found.record, found.before, plan, checked.step.at[1])
    loads = _loads(checked, placed, plan) if chosen.loads is None else dict(chosen.loads)
    plan = dataclasses.replace(
        plan, origin=checked.step.at, loads=loads, run_yaml=pointed(plan.run_yaml, chosen.words)
    )
    told = (
        *found.notes,
        *checked.step.notes(),
        *chosen.notes,
        *copies_read(checked.files),
        *_unsummed(checked),
    )
    moves = _moves_in_place(checked, placed)
    return dataclasses.replace(found, plan=plan, step=checked, moves=moves, notes=told)


def _told_to_program(
    plan: LaunchPlan, plans: Mapping[int, LaunchPlan], fleet: Fleet
) -> tuple[LaunchPlan, list[str]]:
    """The plan whose processes know which checkpoint of theirs is whole, if one is; and lines on it."""
    attempts, silent = gather_saved(fleet, plan.run_id, plans)  # copies no program would find
    found = newest_checkpoint(fleet, plan.run_id, attempts)
    if found is None:
        return plan, silent
    where = f"attempts/{found.attempt}/checkpoint"
    line = f"the newest whole checkpoint is of step {found.step}, in {where}: ORCHESTRATE_CHECKPOINT says so"
    return telling(plan, found), [*silent, *found.notes, line]


def _unsummed(step: CheckedStep) -> list[str]:
    if not step.unsummed:
        return []
    return [
        f"{step.unsummed} of {len(step.checks)} shards have no checksum: they are whole as far as their "
        "structure tells"
    ]


def _all_hosts(plans: Mapping[int, LaunchPlan], plan: LaunchPlan) -> tuple[Host, ...]:
    """Those of all attempts, and of the next; of one name as the newest knows it."""
    hosts = {host.name: host for number in sorted(plans) for host in plans[number].hosts}
    hosts.update({host.name: host for host in plan.hosts})
    return tuple(hosts.values())


def _require_network(job: Job, whole: Assembled) -> None:
    """The tensors that were saved must be those of the job's network, with its shapes."""
    try:
        network = network_of(job)
    except ConfigError:
        return  # one that only the hosts know: its workers compare
    saved = {tensor.spec.name: tensor.spec.dims for tensor in whole.tensors if is_weight(tensor.spec.name)}
    expected = network.shapes()
    wrong = [name for name in {**expected, **saved} if saved.get(name) != expected.get(name)]
    if wrong:
        first = wrong[0]
        what = f"{first} is {saved.get(first)} in the shards, and {expected.get(first)} in the job's network"
        raise CheckpointError(what, remedy=f"see {job.where('model')}")


def _require_steps_left(job: Job, step: CheckedStep, run_id: str) -> None:
    steps, done = job.train.steps if job.train else None, step.step.at[1]
    if steps is not None and done >= steps:
        remedy = f"`orchestrate resume {run_id} --set train.steps=N` trains on"
        raise UsageError(f"step {done} is saved, and the job has {steps}: nothing is left", remedy=remedy)


def _moves_in_place(step: CheckedStep, placed: Mapping[int, str]) -> Moves:
    """What goes from host to host where each rank's shard is there as it is; replicas on one host go once."""
    in_place, sent, read = [], dict[str, int](), dict[str, int]()
    seen = set()
    for rank, (host, file) in (step.sources or {}).items():
        if placed[rank] == host:
            in_place.append(rank)
        elif (placed[rank], host, file.path) not in seen:
            seen.add((placed[rank], host, file.path))
            sent[placed[rank]] = sent.get(placed[rank], 0) + file.identity[0]
            read[host] = read.get(host, 0) + file.identity[0]
    return Moves(tuple(in_place), read, sent)


def _moves_anew(job: Job, plan: LaunchPlan, whole: Assembled) -> Moves:
    """Every slice is read once, and each host gets those of its ranks. Without the frames of files."""
    specs = [tensor.spec for tensor in whole.tensors]
    read = plan_copies(whole, [whole_output(whole)]).bytes_per_host
    outputs = rank_outputs(whole, cut_of(job, [spec.name for spec in specs]).strategies(specs))
    sent: dict[str, dict[object, int]] = {}
    for item in plan.placements:
        output = outputs[item.rank]
        sent.setdefault(item.host, {})[output.tensors] = output.nbytes
    return Moves((), read, {host: sum(sizes.values()) for host, sizes in sent.items()}, anew=True)


def shard_name(rank: int, step: CheckedStep, plan: LaunchPlan) -> str:
    """A shard below the folder that an attempt of this plan loads from, as its worker looks for it."""
    if plan.task == MINDFORMERS and step.sources is not None:
        return load_name(rank, step.sources[rank][1], world_size=plan.world_size)
    choice = step.step.choice
    return f"rank_{rank}/checkpoint_rank_{rank}-{choice.epoch}_{choice.step}.ckpt"


def _loads(step: CheckedStep, placed: Mapping[int, str], plan: LaunchPlan) -> dict[str, tuple[Load, ...]]:
    loads: dict[str, list[Load]] = {}
    for rank, (host, file) in (step.sources or {}).items():
        if placed[rank] == host:
            size, changed, inode = file.identity
            loads.setdefault(host, []).append(
                Load(shard_name(rank, step, plan), file.path, (size, changed, inode))
            )
    return {host: tuple(found) for host, found in loads.items()}
