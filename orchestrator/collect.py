"""Collect a checkpoint: the shards on many hosts become one file here, without copies in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from orchestrator.checkpoint.atomic import mapped_errors
from orchestrator.checkpoint.ckpt_file import lay_out_ckpt
from orchestrator.checkpoint.host_files import HostFiles, LocalFiles
from orchestrator.checkpoint.plan import CollectPlan, plan_collect
from orchestrator.checkpoint.safetensors_file import lay_out_safetensors
from orchestrator.checkpoint.shard import Shard
from orchestrator.checkpoint.steps import Choice, choose_step
from orchestrator.checkpoint.strategy_file import Strategy
from orchestrator.checkpoint.transfer import Progress, Transfer
from orchestrator.checkpoint.write import FreeSpace, OutputFile, free_space
from orchestrator.errors import CheckpointError, HostsFailed, OrchestrateError, TransportError

__all__ = ["Collected", "Format", "HostFiles", "LocalFiles", "collect", "plan_collection"]

Format = Literal["ckpt", "safetensors"]
_Answer = TypeVar("_Answer")
_FAN_OUT = 32


@dataclass(frozen=True, slots=True)
class Collected:
    """What was written, from which step, and which hosts could not be asked but were not needed."""

    path: Path
    choice: Choice
    plan: CollectPlan
    unreachable: Mapping[str, OrchestrateError]


def collect(
    source: HostFiles,
    hosts: Sequence[str],
    strategies: Mapping[int, Strategy],
    world_size: int,
    output: Path,
    *,
    format: Format = "ckpt",
    step: int | None = None,
    with_optimizer: bool = False,
    replicated: bool = False,
    progress: Progress | None = None,
    streams_per_host: int = 2,
    free: FreeSpace = free_space,
) -> Collected:
    """Write the weights of the newest complete step, or of `step`, to `output`: the whole file or none.

    Only the slices that are needed are read, each once; memory is a few chunks per stream. `progress` is
    called with `(bytes done, bytes in all)`, from many threads but never twice at once. `replicated`: without
    strategy files, ranks are copies of one another.
    CheckpointError: no complete step, shards that contradict one another, no room. TransportError or
    HostsFailed: a host that is needed cannot be reached.
    """
    choice, plan, unreachable = plan_collection(
        source,
        hosts,
        strategies,
        world_size,
        step=step,
        with_optimizer=with_optimizer,
        with_texts=format == "ckpt",
        replicated=replicated,
    )
    lay_out = lay_out_safetensors if format == "safetensors" else lay_out_ckpt
    with mapped_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with OutputFile(output, plan.tensors, lay_out(plan.tensors), free=free) as file:
        Transfer(source, plan, file, progress=progress, streams_per_host=streams_per_host).execute()
        file.finish()
    return Collected(output, choice, plan, unreachable)


def plan_collection(
    source: HostFiles,
    hosts: Sequence[str],
    strategies: Mapping[int, Strategy],
    world_size: int,
    *,
    step: int | None = None,
    with_optimizer: bool = False,
    with_texts: bool = True,
    replicated: bool = False,
) -> tuple[Choice, CollectPlan, dict[str, OrchestrateError]]:
    """Ask the hosts what they have and plan the collection; no tensor is read. Raises what `collect` does."""
    listed, unreachable = _ask(hosts, source.list_shards)
    try:
        choice = choose_step(
            listed, strategies, world_size, step=step, with_optimizer=with_optimizer, replicated=replicated
        )
    except CheckpointError:
        # What is missing is most likely there, on the hosts that gave no answer.
        _raise(unreachable)
        raise
    shards, lost = _index(source, choice.files)
    _raise(lost)
    plan = plan_collect(
        shards,
        strategies,
        world_size=world_size,
        with_optimizer=with_optimizer,
        with_texts=with_texts,
        replicated=replicated,
    )
    return choice, plan, unreachable


def _index(
    source: HostFiles, files: Mapping[int, tuple[str, str]]
) -> tuple[list[Shard], dict[str, OrchestrateError]]:
    ranks: dict[str, list[int]] = {}
    for rank, (host, _) in files.items():
        ranks.setdefault(host, []).append(rank)

    def shards_on(host: str) -> list[Shard]:
        paths = [files[rank][1] for rank in ranks[host]]
        indexes = source.index(host, paths)
        if len(indexes) != len(paths):
            raise CheckpointError(f"gave {len(indexes)} indexes for {len(paths)} files", where=host)
        return [Shard.of(r, host, p, i) for r, p, i in zip(ranks[host], paths, indexes, strict=True)]

    answers, lost = _ask(list(ranks), shards_on)
    return [shard for shards in answers.values() for shard in shards], lost


def _ask(
    hosts: Sequence[str], question: Callable[[str], _Answer]
) -> tuple[dict[str, _Answer], dict[str, OrchestrateError]]:
    """The answers, and the hosts that could not be reached; any other error is raised."""
    answers: dict[str, _Answer] = {}
    lost: dict[str, OrchestrateError] = {}
    refused: dict[str, OrchestrateError] = {}
    with ThreadPoolExecutor(min(_FAN_OUT, max(1, len(hosts))), thread_name_prefix="collect") as pool:
        futures = {host: pool.submit(question, host) for host in hosts}
        for host, future in futures.items():
            try:
                answers[host] = future.result()
            except TransportError as error:
                lost[host] = error
            except OrchestrateError as error:
                refused[host] = error
    _raise(refused)
    return answers, lost


def _raise(errors: Mapping[str, OrchestrateError]) -> None:
    if len(errors) > 1:
        raise HostsFailed(errors)
    for error in errors.values():
        raise error
