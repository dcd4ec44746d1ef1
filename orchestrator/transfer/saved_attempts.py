"""What the attempts of a run have saved on hosts, gathered and checked: from which step the run can go on.

A shard whose checksum does not fit, or whose structure is cut, is as one that is missing: a replica takes its
place, or the step before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.checkpoint.assemble import Assembled, assemble
from orchestrator.checkpoint.cut.attempt_steps import (
    AttemptStep,
    SavedAttempt,
    choose_newest,
    copies_of,
    sources_for,
)
from orchestrator.checkpoint.cut.complete_steps import Failed, choose_readable
from orchestrator.checkpoint.cut.global_steps import by_global_step
from orchestrator.checkpoint.shard_index import Shard, ShardFile, ShardIndex
from orchestrator.control.copied_files import OwnersWord
from orchestrator.control.run_record import RunRecord
from orchestrator.core.errors import CheckpointError, OrchestrateError, RunNotFound
from orchestrator.core.host_answers import ShardCheck
from orchestrator.core.iteration_answers import IterationList
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan, read_outline
from orchestrator.transfer.copied_shards import copied_strategies, known_files, require_owners_word
from orchestrator.transfer.mindformers_saves import MindFormersSaves, saves_of
from orchestrator.transfer.small_files import Spool, gather, parsed_strategies

__all__ = [
    "CheckedStep",
    "Place",
    "assembled",
    "choose_checked",
    "gather_saved",
    "iterations_of",
    "plans_of",
]

# A disk that stands still this long has failed; a shard of many gigabytes is read to its end.
_LIST_TIMEOUT = 300.0
_CHECK_TIMEOUT = 3600.0
_KEPT_ENOUGH = 3
_MOST_PLANNED = 6

Place = tuple[str, str]
"""A file: the host that has it, and its path there."""


@dataclass(frozen=True, slots=True)
class CheckedStep:
    """The step to go on from. `sources` is the file of each rank, where they can be loaded as they are.

    `files` are all that are needed, each with what its host has found: whole, and by a checksum or not.
    """

    step: AttemptStep
    sources: Mapping[int, tuple[str, ShardFile]] | None
    files: Mapping[Place, ShardFile]
    checks: Mapping[Place, ShardCheck] = field(default_factory=dict)

    @property
    def unsummed(self) -> int:
        """So many of the files have no checksum: that they are whole is known by their structure alone."""
        return sum(not check.summed for check in self.checks.values())


def plans_of(
    control: ControlDir, record: RunRecord, newest_plan: LaunchPlan | None = None
) -> dict[int, LaunchPlan]:
    """The plan of each attempt that is known here, as far back as anything is gone on from; without what each
    host was started with. That of the attempt in force need not be read where it is given.

    Not of one that the record does not have: who planned it died before it was in force, and what it was to
    go on from means nothing. A run may have had hundreds; behind some that have each kept a whole step
    nothing is looked for.
    """
    plans: dict[int, LaunchPlan] = {}
    tokens = {attempt.number: attempt.token for attempt in record.attempts}
    kept = {attempt.number for attempt in record.attempts if attempt.kept}
    known = [number for number in control.numbers() if number <= record.attempts[-1].number] or [1]
    for number in sorted(known, reverse=True):
        if len(kept & plans.keys()) >= _KEPT_ENOUGH:
            break
        path = control.plan_of(number)
        if newest_plan is not None and newest_plan.attempt.number == number:
            _planned[path] = replace(newest_plan, manifests={})
        one = _planned.get(path) if newest_plan is not None else None
        if one is not None and one.attempt.token == tokens.get(number):
            plans[number] = one
            continue
        with contextlib.suppress(RunNotFound):  # of an attempt that came to nothing
            plans[number] = read_outline(path)
    while len(_planned) > _MOST_PLANNED:
        del _planned[next(iter(_planned))]
    return dict(sorted(plans.items()))


# Of a run that goes on again and again, in its monitor: the last plans, which need not be read again.
_planned: dict[Path, LaunchPlan] = {}


def gather_saved(
    fleet: Fleet, run_id: str, plans: Mapping[int, LaunchPlan], said: OwnersWord | None = None
) -> tuple[list[SavedAttempt], list[str]]:
    """What every attempt has saved on the hosts that answer, and a line on each that does not.

    A host that has no such run, a spare or one whose disk was replaced, has nothing to tell. What one has of
    another launch with the same number, or of a later one, belongs to none of these attempts. A copy of
    another host's shard is listed where its owner has `said` what it is.
    """
    said = said or {}
    tokens = {number: plan.attempt.token for number, plan in plans.items()}
    # Names of MindFormers count the steps of an epoch; which step that is, the files say.
    inside = any(saves_of(plan) is not None for plan in plans.values())
    answers = fleet.each(lambda agent: agent.saved(run_id, tokens, steps=inside, timeout=_LIST_TIMEOUT))
    notes = [
        f"{host}: cannot be asked what it has: {error.what}"
        for host, error in answers.errors.items()
        if getattr(error, "kind", "") != "no_run"
    ]
    listed: dict[int, dict[str, list[ShardFile]]] = {number: {} for number in plans}
    for host, rows in answers.values.items():
        for row in (each for each in rows if each.attempt <= max(plans)):
            listed.setdefault(row.attempt, {}).setdefault(host, []).extend(
                known_files([vars(row)], said, row.attempt)
            )
    saved = []
    with fleet.part(answers.values) as part:
        for number, files in sorted(listed.items()):
            saved.append(_saved(part, run_id, number, by_global_step(files), plans.get(number), said))
    return saved, notes


def _saved(
    fleet: Fleet,
    run_id: str,
    number: int,
    files: Mapping[str, Sequence[ShardFile]],
    plan: LaunchPlan | None,
    said: OwnersWord,
) -> SavedAttempt:
    strategies = {}
    if files:
        meant = plan.attempt if plan else Attempt(number)
        spool = Spool()
        found = gather(fleet, run_id, "strategy", lambda host: None, spool, attempt=meant).files
        if plan is not None:
            found = {**found, **copied_strategies(fleet, plan, found, said, spool)}
        strategies = parsed_strategies(found)
    ranks = [each.rank for rows in files.values() for each in rows]
    own = (saves_of(plan) if plan is not None else None) or MindFormersSaves()
    return SavedAttempt(
        number,
        files,
        strategies,
        token=plan.attempt.token if plan else "",
        world_size=plan.world_size if plan else max(ranks, default=-1) + 1,
        origin=plan.origin if plan else None,
        placed={item.rank: item.host for item in plan.placements} if plan else {},
        replicated=own.replicated and not strategies,
        needs_all=own.needs_all,
    )


def iterations_of(fleet: Fleet, run_id: str, attempt: Attempt) -> Mapping[str, IterationList]:
    """What each host has of an attempt in the form of MindFormers' checkpoint 2.0, of those that answer."""
    return fleet.each(lambda agent: agent.iterations(run_id, attempt, timeout=_LIST_TIMEOUT)).values


def choose_checked(
    fleet: Fleet,
    attempts: Sequence[SavedAttempt],
    *,
    placed: Mapping[int, str],
    same_layout: Iterable[int],
    step: int | None = None,
) -> CheckedStep:
    """The newest step that is complete and whole, or `step`, and which file each rank of `placed` takes.

    `same_layout` are the attempts whose shards those ranks can load as they are. CheckpointError, or the
    error of the first damaged file: there is none.
    """
    alike = frozenset(same_layout)
    known: dict[Place, ShardCheck] = {}

    def choose(failed: Failed) -> CheckedStep:
        chosen = choose_newest(attempts, step=step, failed=failed)
        having, sources = copies_of(chosen), None
        if chosen.attempt.number in alike:
            saved = chosen.attempt
            strategies = {} if saved.needs_all else saved.strategies
            sources = sources_for(placed, having, strategies, replicated=saved.replicated)
        if sources is not None:
            files = {(host, file.path): file for host, file in sources.values()}
        else:
            files = {(host, path): having[rank][host] for rank, (host, path) in chosen.choice.files.items()}
        return CheckedStep(chosen, sources, files)

    def check(chosen: CheckedStep) -> tuple[dict[Place, ShardCheck], Failed]:
        moved = _moved(chosen, placed)
        wanted = {place: file for place, file in chosen.files.items() if not _is_known(known, place, moved)}
        found, failed = _checked(fleet, wanted, moved)
        known.update(found)
        return {place: known[place] for place in chosen.files if place in known}, failed

    chosen, checks = choose_readable(choose, check)
    return replace(chosen, checks=checks)


def _moved(chosen: CheckedStep, placed: Mapping[int, str]) -> set[Place]:
    """The files that ranks on other hosts load: their hash will name them there."""
    sources = chosen.sources or {}
    return {(host, file.path) for rank, (host, file) in sources.items() if placed[rank] != host}


def _is_known(known: Mapping[Place, ShardCheck], place: Place, moved: set[Place]) -> bool:
    return place in known and (place not in moved or known[place].sha256 is not None)


def _checked(
    fleet: Fleet, files: Mapping[Place, ShardFile], hashed: set[Place]
) -> tuple[dict[Place, ShardCheck], Failed]:
    """What the hosts say of their files; a host that cannot be asked has none of them whole."""
    by_host: dict[str, list[ShardFile]] = {}
    for (host, _), file in files.items():
        by_host.setdefault(host, []).append(file)

    def look(agent: Agent) -> tuple[dict[Place, ShardCheck], dict[Place, OrchestrateError]]:
        found: dict[Place, ShardCheck] = {}
        damaged: dict[Place, OrchestrateError] = {}
        host, wanted = agent.host, by_host[agent.host]
        asked = [
            (file.path, file.identity, (host, file.path) in hashed or bool(file.sha256)) for file in wanted
        ]
        checks = agent.check_shards(asked, timeout=_CHECK_TIMEOUT)
        for file, check in zip(wanted, checks, strict=True):
            place = (host, file.path)
            try:
                if check.damage:
                    raise CheckpointError(check.damage, where=host)
                require_owners_word(file, check.sha256)
                found[place] = check
            except OrchestrateError as error:
                damaged[place] = error
        return found, damaged

    answers = fleet.each(look, by_host)
    found = {place: check for seen, _ in answers.values.values() for place, check in seen.items()}
    failed = {place: error for _, lost in answers.values.values() for place, error in lost.items()}
    for host, error in answers.errors.items():
        failed.update({(host, file.path): error for file in by_host[host]})
    return found, failed


def assembled(fleet: Fleet, chosen: CheckedStep) -> Assembled:
    """The tensors of the step, no byte of which is read. CheckpointError: its shards do not fit together."""
    index = ShardIndex()
    by_host: dict[str, list[tuple[int, str]]] = {}
    for rank, (host, path) in chosen.step.choice.files.items():
        by_host.setdefault(host, []).append((rank, path))

    def look(agent: Agent) -> list[Shard]:
        host = agent.host
        return [
            index.shard(rank, host, path, map(vars, agent.index(path, timeout=_LIST_TIMEOUT)))
            for rank, path in by_host[host]
        ]

    answers = fleet.each(look, by_host).raise_on_error()
    saved = chosen.step.attempt
    return assemble(
        [shard for shards in answers.values() for shard in shards],
        saved.strategies,
        world_size=saved.world_size,
        with_optimizer=True,
        with_texts=False,
    )
