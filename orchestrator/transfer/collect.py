"""Ask the hosts which shards they have, and plan a collection; no tensor is read.

Collect a checkpoint: the shards on many hosts become one file here, without copies in between.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

from orchestrator.checkpoint.atomic import mapped_errors
from orchestrator.checkpoint.collection_manifest import manifest_beside, manifest_of
from orchestrator.checkpoint.copy_engine import Limit, Progress, Transfer, check_done
from orchestrator.checkpoint.copy_plan import CollectPlan, plan_collect
from orchestrator.checkpoint.cut.coverage import why_left_out
from orchestrator.checkpoint.cut.steps import Choice, choose_step
from orchestrator.checkpoint.files.strategy_files import Strategy
from orchestrator.checkpoint.hf_layout import HfModel, lay_out_huggingface
from orchestrator.checkpoint.journal import Header, Journal
from orchestrator.checkpoint.output import FreeSpace, OutputFiles, discard, free_space
from orchestrator.checkpoint.segments import SEGMENT, Segment, cut_segments
from orchestrator.checkpoint.shard_source import HostFiles, LocalFiles, Shard, ShardIndex
from orchestrator.checkpoint.target import Format, OutputLayout, lay_out_file
from orchestrator.core.errors import (
    CheckpointError,
    HostsFailed,
    Interrupted,
    OrchestrateError,
    TransportError,
)

__all__ = [
    "Collected",
    "Collection",
    "Format",
    "HostFiles",
    "LocalFiles",
    "collect",
    "plan_collection",
    "raise_all",
]

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


_GO_ON = "the same command goes on from there"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Collected:
    """What was written, from which step, and which hosts could not be asked but were not needed.

    `resumed` are the bytes that an earlier collection had brought.
    """

    path: Path
    choice: Choice
    plan: CollectPlan
    unreachable: Mapping[str, OrchestrateError]
    resumed: int
    size: int


def collect(
    source: HostFiles,
    hosts: Sequence[str],
    wanted: Collection,
    output: Path,
    *,
    progress: Progress | None = None,
    say: Say = lambda text: None,
    rate: int | None = None,
    streams_per_host: int = 2,
    segment_bytes: int = SEGMENT,
    durable: bool = True,
    free: FreeSpace = free_space,
) -> Collected:
    """Write what is `wanted` to `output`, a file or for Hugging Face a folder: all of it or nothing.

    Only the slices that are needed are read, each once; memory is a few segments per stream. What a broken
    collection has brought stays beside the output and is not brought again. `say` gets what a person should
    know meanwhile; `rate` is bytes a second at most. `durable`: return when the output is on the disk.
    CheckpointError: no complete step, shards that contradict one another, no room. TransportError or
    HostsFailed: a host that is needed cannot be reached. Interrupted for a KeyboardInterrupt under way.
    """
    with mapped_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(output)
    work = _Work(source, list(hosts), wanted, output, journal, progress, say, Limit(rate), streams_per_host)
    try:
        return work.run(segment_bytes, durable, free)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted{work.kept()}", remedy=_GO_ON if journal.done else "") from None
    except OrchestrateError:
        if journal.done:
            say(f"not finished{work.kept()} ({_GO_ON})")
        raise
    finally:
        journal.close()


@dataclass(slots=True)
class _Work:
    source: HostFiles
    hosts: list[str]
    wanted: Collection
    output: Path
    journal: Journal
    progress: Progress | None
    say: Say
    limit: Limit
    streams: int

    def run(self, segment_bytes: int, durable: bool, free: FreeSpace) -> Collected:
        try:
            choice, plan, unreachable = self._plan()
            layout = lay_out(plan, self.wanted)
            header = _header(self.wanted, choice, plan, layout, segment_bytes)
            keep = self.journal.begin(header)
            with OutputFiles(self.output, layout, keep=keep, durable=durable, free=free) as file:
                segments = cut_segments(plan, layout.targets, segment_bytes)
                resumed = self._check(segments, file)
                plan = self._transfer(plan, segments, file, choice)
                with manifest_beside(self.output, manifest_of(header, plan, layout, segments, self.journal)):
                    file.finish()
        except BaseException:
            self._tidy()
            raise
        self.journal.remove()
        return Collected(self.output, choice, plan, unreachable, resumed, layout.size)

    def _plan(self) -> tuple[Choice, CollectPlan, dict[str, OrchestrateError]]:
        """The plan; of the step that an earlier collection was at, where that is left open."""
        wanted, earlier = self.wanted, self.journal.earlier
        is_open = wanted.step is None and not wanted.latest and bool(self.journal.done)
        if is_open and earlier is not None and earlier.source == wanted.source:
            try:
                planned = plan_collection(self.source, self.hosts, replace(wanted, step=earlier.step))
            except CheckpointError:
                self.say(f"step {earlier.step}, which was begun, cannot be had any more")
            else:
                self.say(f"going on with step {earlier.step}, which was begun")
                return planned
        return plan_collection(self.source, self.hosts, wanted)

    def _check(self, segments: Sequence[Segment], file: OutputFiles) -> int:
        if self.journal.done:
            self.say("checking what an earlier collection has brought")
        return check_done(segments, file, self.journal)

    def _transfer(
        self, plan: CollectPlan, segments: list[Segment], file: OutputFiles, choice: Choice
    ) -> CollectPlan:
        """Until all is here; what a host that is lost under way had comes from replicas, if there are any."""
        while True:
            transfer = Transfer(
                self.source,
                segments,
                file,
                self.journal,
                progress=self.progress,
                say=self.say,
                streams_per_host=self.streams,
                limit=self.limit,
            )
            transfer.execute()
            if not transfer.lost:
                return plan
            plan = self._plan_without(transfer.lost, choice, plan)
            segments[:] = [replace(each, read=plan.reads[each.number]) for each in segments]

    def _plan_without(
        self, lost: Mapping[str, OrchestrateError], choice: Choice, before: CollectPlan
    ) -> CollectPlan:
        self.hosts = [host for host in self.hosts if host not in lost]
        try:
            same_step = replace(self.wanted, step=choice.step)
            _, plan, _ = plan_collection(self.source, self.hosts, same_step)
        except OrchestrateError:
            raise_all(lost)
            raise
        if [(read.tensor, read.region) for read in plan.reads] != [
            (read.tensor, read.region) for read in before.reads
        ]:
            raise_all(lost)
        self.say("going on with replicas on other hosts")
        return plan

    def kept(self) -> str:
        """What there is for the next time, as the end of a sentence."""
        kept = sum(done.nbytes for done in self.journal.done.values())
        return f": {kept / 1e9:.2f} GB are in place beside {self.output}" if kept else ""

    def _tidy(self) -> None:
        """Nothing is left behind that is of no use to the next collection."""
        if not self.journal.done:
            discard(self.output)
            self.journal.remove()


def lay_out(plan: CollectPlan, wanted: Collection) -> OutputLayout:
    """The output that a plan fills."""
    if wanted.format == "huggingface":
        return lay_out_huggingface(plan.tensors, wanted.model, wanted.dtype)
    return lay_out_file(plan.tensors, wanted.format, wanted.dtype)


def _header(
    wanted: Collection, choice: Choice, plan: CollectPlan, layout: OutputLayout, segment_bytes: int
) -> Header:
    """The signature is of all that decides which bytes go where; not of the hosts: replicas may differ."""
    at = [wanted.source, choice.epoch, choice.step, wanted.format, segment_bytes]
    tensors = (
        (t.source.name, t.source.dims, t.source.dtype, t.dtype, t.file, t.places) for t in layout.targets
    )
    regions = ((read.tensor, read.region) for read in plan.reads)
    signature = hashlib.sha256()
    for fact in chain([at], tensors, regions):
        signature.update(json.dumps(fact).encode() + b"\n")
    return Header(signature.hexdigest(), wanted.source, (choice.epoch, choice.step), choice.identities)
