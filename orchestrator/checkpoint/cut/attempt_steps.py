"""The newest complete step over the attempts of a run, and which shard of it each rank of the next one takes.

A complete step is (attempt, step): shards of two attempts are never taken together. Pure data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.checkpoint.cut.complete_steps import Choice, Failed, by_step, choose_step
from orchestrator.checkpoint.cut.coverage import stage_ranks
from orchestrator.checkpoint.cut.slices import slices
from orchestrator.checkpoint.files.strategy_files import Strategy
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.core.errors import CheckpointError

__all__ = [
    "AttemptStep",
    "Copies",
    "SavedAttempt",
    "choose_newest",
    "copies_of",
    "same_slices",
    "sources_for",
]

Copies = Mapping[int, Mapping[str, ShardFile]]
"""By rank, and by the host that has it, the file of one step."""


@dataclass(frozen=True, slots=True)
class SavedAttempt:
    """What one attempt has saved, by host, and how its tensors are cut.

    `origin` is the (attempt, step) that it went on from, None where it began anew or nobody knows. `placed`
    names the host that each of its ranks ran on, `token` tells it from another launch of the same number.
    `replicated`: each rank's file is whole, so that any takes the place of any; `needs_all`: ranks leave out
    what others have saved, so that none does, whatever the strategies say.
    """

    number: int
    listed: Mapping[str, Sequence[ShardFile]]
    strategies: Mapping[int, Strategy] = field(default_factory=dict)
    world_size: int = 0
    origin: tuple[int, int] | None = None
    placed: Mapping[int, str] = field(default_factory=dict)
    token: str = ""
    replicated: bool = False
    needs_all: bool = False

    def until(self, step: int | None) -> SavedAttempt:
        """Without what it has saved after this step."""
        if step is None:
            return self
        listed = {host: [each for each in files if each.step <= step] for host, files in self.listed.items()}
        return replace(self, listed=listed)


@dataclass(frozen=True, slots=True)
class AttemptStep:
    """The chosen step of one attempt; `without` says of the newer attempts why none of theirs was."""

    attempt: SavedAttempt
    choice: Choice
    without: Mapping[int, str] = field(default_factory=dict)

    @property
    def at(self) -> tuple[int, int]:
        """(attempt, step)."""
        return self.attempt.number, self.choice.step

    def notes(self) -> list[str]:
        """What was passed over, a line each: attempts, steps, and files that are damaged or unreadable."""
        return [*(f"attempt {number}: {why}" for number, why in self.without.items()), *self.choice.notes()]


def choose_newest(
    attempts: Sequence[SavedAttempt],
    *,
    step: int | None = None,
    failed: Failed | None = None,
) -> AttemptStep:
    """The newest step that is complete over all hosts, of the newest attempt that has one.

    An attempt that went on from an earlier step has put aside what came after that. `step` asks for one, of
    the newest attempt that has it whole. What has `failed` is as if it were not there. CheckpointError: there
    is none; it says what is lacking where.
    """
    without: dict[int, str] = {}
    errors: list[CheckpointError] = []
    ordered = sorted(attempts, key=lambda attempt: -attempt.number)
    for attempt in _lineage(ordered) if step is None else ordered:
        try:
            choice = choose_step(
                attempt.listed,
                {} if attempt.needs_all else attempt.strategies,
                attempt.world_size,
                step=step,
                with_optimizer=True,
                replicated=attempt.replicated,
                placed=attempt.placed,
                failed=failed,
            )
        except CheckpointError as error:
            has_saved = any(attempt.listed.values())
            without[attempt.number] = error.what if has_saved else "it has saved no checkpoint"
            errors += [error] if has_saved or not errors else []
            continue
        return AttemptStep(attempt, choice, without)
    if len(without) > 1:
        what = "; ".join(f"attempt {number}: {why}" for number, why in without.items())
        raise CheckpointError(what, remedy=errors[0].remedy)
    raise errors[0] if errors else CheckpointError("no attempt has saved a checkpoint")


def _lineage(attempts: Sequence[SavedAttempt]) -> Iterator[SavedAttempt]:
    """The newest attempt, that which it went on from as far as it did, and so on; of unknown ones all."""
    limits: dict[int, int | None] = {}
    skipped_to: int | None = None
    for attempt in attempts:
        if skipped_to is not None and attempt.number > skipped_to:
            continue
        skipped_to = None
        yield attempt.until(limits.get(attempt.number))
        if attempt.origin is not None:
            skipped_to, step = attempt.origin
            limit = limits.get(attempt.number)
            limits[skipped_to] = step if limit is None else min(step, limit)


def copies_of(chosen: AttemptStep) -> dict[int, dict[str, ShardFile]]:
    """Every file of the chosen step that has not failed; of reruns into one folder the last."""
    choice = chosen.choice
    return by_step(chosen.attempt.listed, choice.failed).get((choice.epoch, choice.step), {})


def same_slices(rank: int, strategies: Mapping[int, Strategy]) -> tuple[int, ...]:
    """The ranks whose shards equal this one's: of each parameter and its moments they hold the same."""
    known = next((each for other, each in strategies.items() if rank in stage_ranks(other, each)), None)
    if known is None:
        return (rank,)
    ranks = set(stage_ranks(rank, known))
    for layout in set(known.layouts.values()):
        held = slices(layout)
        mine = held[rank % len(held)]
        ranks = {other for other in ranks if held[other % len(held)] == mine}
    return tuple(sorted(ranks))


def sources_for(
    placed: Mapping[int, str],
    copies: Copies,
    strategies: Mapping[int, Strategy],
    *,
    replicated: bool = False,
) -> dict[int, tuple[str, ShardFile]] | None:
    """The shard that each rank of the next attempt loads, and the host that has it; None: not one is equal.

    `placed` is the host of each rank, in the layout in which the step was saved. First what is on the rank's
    own host, its own shard before a replica's; else from the hosts that have one in turn. Copies come last.
    `replicated`: all shards are equal.
    """
    found: dict[int, tuple[str, ShardFile]] = {}
    for rank, host in placed.items():
        if (mine := copies.get(rank, {}).get(host)) is not None:
            # As nearly all have it; of thousands the equal ones are not to be looked for.
            found[rank] = (host, mine)
            continue
        same = sorted(copies) if replicated else same_slices(rank, strategies)
        equal = [rank, *(other for other in same if other != rank)]
        having = [(where, file) for other in equal for where, file in sorted(copies.get(other, {}).items())]
        shards = [each for each in having if not each[1].owner]
        here = [each for each in (*shards, *having) if each[0] == host]
        own = [each for each in shards if each[1].rank == rank]
        best = here[:1] or _in_turn(own or shards or having, rank)
        if not best:
            return None
        found[rank] = best[0]
    return found


def _in_turn(having: Iterable[tuple[str, ShardFile]], rank: int) -> list[tuple[str, ShardFile]]:
    listed = list(having)
    return [listed[rank % len(listed)]] if listed else []
