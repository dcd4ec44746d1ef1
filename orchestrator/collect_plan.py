"""Ask the hosts which shards they have, and plan a collection; no tensor is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from orchestrator.checkpoint.coverage import why_left_out
from orchestrator.checkpoint.hf_layout import HfModel
from orchestrator.checkpoint.host_files import HostFiles
from orchestrator.checkpoint.output_layout import Format
from orchestrator.checkpoint.plan import CollectPlan, plan_collect
from orchestrator.checkpoint.shard import Shard, ShardIndex
from orchestrator.checkpoint.steps import Choice, choose_step
from orchestrator.checkpoint.strategy_file import Strategy
from orchestrator.errors import CheckpointError, HostsFailed, OrchestrateError, TransportError

__all__ = ["Collection", "plan_collection", "raise_all"]

_Answer = TypeVar("_Answer")
_FAN_OUT = 32


@dataclass(frozen=True, slots=True)
class Collection:
    """What is wanted: of which shards, and in which form.

    `step` None is the newest complete one, or without `latest` the one that a collection to the same output
    broke off at. `dtype` is MindSpore's name of a type that floats are written in. `source` names the run in
    journal and manifest, `placed` the host that each rank ran on. `replicated`: without strategy files, ranks
    are copies of one another. `model` is for `huggingface` alone.
    """

    strategies: Mapping[int, Strategy] = field(default_factory=dict)
    world_size: int = 0
    format: Format = "ckpt"
    step: int | None = None
    latest: bool = False
    dtype: str | None = None
    with_optimizer: bool = False
    replicated: bool = False
    model: HfModel | None = None
    source: str = ""
    placed: Mapping[int, str] = field(default_factory=dict)


def plan_collection(
    source: HostFiles, hosts: Sequence[str], wanted: Collection
) -> tuple[Choice, CollectPlan, dict[str, OrchestrateError]]:
    """Step, plan, and the hosts that gave no answer but are not needed; raises what `collect` does."""
    listed, unreachable = _ask(hosts, source.list_shards)
    try:
        choice = choose_step(
            listed,
            wanted.strategies,
            wanted.world_size,
            step=wanted.step,
            with_optimizer=wanted.with_optimizer,
            replicated=wanted.replicated,
            placed=wanted.placed,
        )
    except CheckpointError:
        # What is missing is most likely there, on the hosts that gave no answer.
        raise_all(unreachable)
        raise
    with_texts = wanted.format == "ckpt"

    def why_not(name: str, dtype: str) -> str:
        return why_left_out(name, dtype, wanted.with_optimizer, with_texts)

    shards, lost = _index(source, choice.files, why_not)
    raise_all(lost)
    plan = plan_collect(
        shards,
        wanted.strategies,
        world_size=wanted.world_size,
        with_optimizer=wanted.with_optimizer,
        with_texts=with_texts,
        replicated=wanted.replicated,
    )
    return choice, plan, unreachable


def _index(
    source: HostFiles, files: Mapping[int, tuple[str, str]], why_not: Callable[[str, str], str]
) -> tuple[list[Shard], dict[str, OrchestrateError]]:
    index = ShardIndex(why_not)
    ranks: dict[str, list[int]] = {}
    for rank, (host, _) in files.items():
        ranks.setdefault(host, []).append(rank)

    def shards_on(host: str) -> list[Shard]:
        # One by one: an index is several times as large as what is kept of it.
        paths = {rank: files[rank][1] for rank in ranks[host]}
        return [index.shard(rank, host, path, source.index(host, path)) for rank, path in paths.items()]

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
    raise_all(refused)
    return answers, lost


def raise_all(errors: Mapping[str, OrchestrateError]) -> None:
    """The one error, or all of them as one; nothing where there is none."""
    if len(errors) > 1:
        raise HostsFailed(errors)
    for error in errors.values():
        raise error
