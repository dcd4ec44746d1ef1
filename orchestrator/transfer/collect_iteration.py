"""The collection of an iteration of MindFormers' checkpoint 2.0, chosen over all hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.checkpoint.copy_plan import CopyPlan, plan_copies, whole_output
from orchestrator.checkpoint.cut.complete_steps import Choice
from orchestrator.checkpoint.cut.coverage import why_left_out
from orchestrator.checkpoint.cut.iterations import IterationChoice, newest_iteration
from orchestrator.checkpoint.host_files import HostFiles
from orchestrator.checkpoint.iteration_pieces import assemble_iteration
from orchestrator.checkpoint.shard_index import Shard, ShardFile, ShardIndex
from orchestrator.core.errors import (
    AgentError,
    CheckpointError,
    HostsFailed,
    OrchestrateError,
    TransportError,
)
from orchestrator.core.iteration_answers import IterationList, IterationRow

__all__ = ["METADATA", "Iteration", "iteration_of", "plan_iteration"]

METADATA = re.compile(r"metadata\.json")


@dataclass(frozen=True, slots=True)
class Iteration:
    """The iteration that is collected: each host's files of it, and what its metadata.json says, or None.

    `notes` are of hosts that were asked for that file in vain.
    """

    choice: IterationChoice
    files: Mapping[str, Sequence[ShardFile]] = field(default_factory=dict)
    metadata: object | None = None
    notes: tuple[str, ...] = ()


def iteration_of(
    listed: Mapping[str, IterationList],
    metadata: Callable[[str, int], bytes],
    *,
    step: int | None = None,
    with_optimizer: bool = False,
) -> Iteration:
    """The newest that is whole, or `step`. `metadata` reads the JSON file of (host, iteration).

    CheckpointError: there is none, or its metadata.json is none. Where no host gives that, what the one that
    has it is refused for; HostsFailed of several.
    """
    chosen = newest_iteration(listed, step=step, with_optimizer=with_optimizer)
    rows = {
        host: row
        for host, each in listed.items()
        for row in each.iterations
        if row.iteration == chosen.iteration
    }
    files = {host: tuple(_files(row, chosen)) for host, row in rows.items()}
    said: object | None = None
    notes: list[str] = []
    if having := [host for host, row in sorted(rows.items()) if row.named is not None]:
        said, notes = _said(having, lambda host: metadata(host, chosen.iteration))
    return Iteration(chosen, files, said, tuple(notes))


def _said(hosts: Sequence[str], metadata: Callable[[str], bytes]) -> tuple[object, list[str]]:
    """What the JSON file says, of the first host that gives it; a line on each that did not."""
    errors: dict[str, OrchestrateError] = {}
    for host in hosts:
        try:
            said = json.loads(metadata(host))
        except (ValueError, RecursionError):
            errors[host] = CheckpointError("metadata.json is no JSON", where=host)
        except (AgentError, TransportError) as error:
            errors[host] = error
        else:
            lines = HostsFailed(errors).lines()
            return said, [f"{line}: metadata.json of {host} was taken" for line in lines]
    raise errors[hosts[0]] if len(errors) == 1 else HostsFailed(errors)


def _files(row: IterationRow, chosen: IterationChoice) -> list[ShardFile]:
    """Numbered as they are, so that each is a shard of its own."""
    numbers = {name: number for number, name in enumerate(sorted(chosen.files))}
    return [
        ShardFile(numbers[name], 0, chosen.iteration, 0, str(path), identity)
        for path, identity in sorted(row.places.items())
        if (name := path.rpartition("/")[2]) in numbers
    ]


def plan_iteration(
    source: HostFiles,
    iteration: Iteration,
    with_optimizer: bool,
    with_texts: bool,
    *,
    without: Collection[str] = (),
) -> tuple[Choice, CopyPlan]:
    """Step and plan of a collection, without the hosts that are lost. CheckpointError: files are missing."""
    index = ShardIndex(lambda name, dtype: why_left_out(name, dtype, with_optimizer, with_texts))
    found: list[Shard] = []
    files: dict[int, tuple[str, str]] = {}
    identities: dict[int, tuple[int, ...]] = {}
    for host, listed in iteration.files.items():
        for file in listed if host not in without else ():
            found.append(index.shard(file.rank, host, file.path, source.index(host, file.path)))
            files.setdefault(file.rank, (host, file.path))
            identities.setdefault(file.rank, file.identity)
    whole = assemble_iteration(
        found, iteration.metadata, with_optimizer=with_optimizer, with_texts=with_texts
    )
    chosen = iteration.choice
    passed_over = {(0, number): why for number, why in chosen.passed_over.items()}
    choice = Choice(0, chosen.iteration, files, passed_over, identities)
    return choice, plan_copies(whole, [whole_output(whole)])
