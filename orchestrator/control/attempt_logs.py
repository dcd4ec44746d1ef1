"""The logs of a run, of one attempt or of all that follow while one looks on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.control.attempts import plan_of_record
from orchestrator.control.log_stream import LogBatch, iter_batches
from orchestrator.control.logs import labels_of
from orchestrator.control.our_claim import address_of
from orchestrator.control.run_record import RunRecord, read_record
from orchestrator.control.runs import current_record
from orchestrator.core.ends import SCHEDULER, label_of
from orchestrator.core.errors import OrchestrateError, UsageError
from orchestrator.core.paths import ControlDir
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = ["Wanted", "batches_of"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose logs are wanted: of all ranks, of these, of those of one host, or of the scheduler.

    `tail`: from so many lines before the end of each; `block` bytes of a log are read at a time, or less.
    """

    ranks: Sequence[int] | None = None
    host: str | None = None
    scheduler: bool = False
    tail: int | None = None
    block: int = 1 << 20


def batches_of(
    control: ControlDir,
    wanted: Wanted,
    *,
    follow: bool = False,
    attempt: int | None = None,
    begun: Callable[[int], None] = lambda number: None,
) -> Iterator[LogBatch | None]:
    """The lines of these logs as they come; None where there is nothing just now.

    Without `attempt` they are of the one in force and, with `follow`, of each that follows, until the run has
    ended. `begun` is told the number of each attempt whose lines come. Raises UsageError where no rank fits,
    or there is no such attempt; the errors of hosts whose logs could not be read, unless the run has gone on
    without them.
    """
    record: RunRecord | None = read_record(control)
    while record is not None:
        launched = plan_of_record(control, record, attempt)
        labels = _labels(launched, wanted)
        begun(launched.attempt.number)
        error: OrchestrateError | None = None
        try:
            yield from _batches_of_one(control, record, launched, labels, wanted, follow)
        except OrchestrateError as raised:
            error = raised
        record = _later(control, launched) if follow and attempt is None else None
        if record is None and error is not None:
            raise error
        wanted = replace(wanted, tail=None)


def _later(control: ControlDir, launched: LaunchPlan) -> RunRecord | None:
    """The record of a run of which a later attempt is in force; None where there is none."""
    record = current_record(control)
    return record if record.attempts[-1].number > launched.attempt.number else None


def _labels(launched: LaunchPlan, wanted: Wanted) -> Mapping[str, Sequence[str]]:
    """The logs that are meant, by host. Raises UsageError where there are none."""
    labels: Mapping[str, Sequence[str]]
    if wanted.scheduler:
        labels = {name: [label_of(SCHEDULER)] for name, one in launched.manifests.items() if one.scheduler}
    else:
        labels = labels_of(launched, wanted.ranks, wanted.host)
    if not labels:
        raise UsageError(
            "no scheduler is in this run" if wanted.scheduler else "no rank of this run fits",
            remedy=f"it has ranks 0-{launched.world_size - 1}",
        )
    return labels


def _batches_of_one(
    control: ControlDir,
    record: RunRecord,
    launched: LaunchPlan,
    labels: Mapping[str, Sequence[str]],
    wanted: Wanted,
    follow: bool,
) -> Iterator[LogBatch | None]:
    """These logs of one attempt; with `follow` until another one is in force, or the run has ended."""

    def is_over() -> bool:
        newest = current_record(control) if follow else record
        return newest.state.is_terminal or newest.attempts[-1].number != launched.attempt.number or not follow

    hosts = [member for member in launched.hosts if member.name in labels]
    with fleet_of(hosts, launched.ssh) as fleet:
        fleet.address(address_of(record, launched.attempt.number))
        yield from iter_batches(
            launched.run_id, fleet, labels, tail=wanted.tail, block=wanted.block, is_over=is_over
        )
