"""Collecting a checkpoint: the shards on many hosts become one file here, without copies in between.

The hosts are asked which shards they have, the collection is planned without reading a tensor, and what the
plan needs is brought; what an earlier collection to the same output has brought stays.
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

from orchestrator.checkpoint.assemble import assemble
from orchestrator.checkpoint.collection_manifest import manifest_beside, manifest_text
from orchestrator.checkpoint.companion_files import Put, require_own_output
from orchestrator.checkpoint.copy_engine import check_done, copy_segments
from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.copy_plan import CopyPlan, Segment, cut_segments, plan_copies, whole_output
from orchestrator.checkpoint.cut.complete_steps import (
    Choice,
    Failed,
    choose_readable,
    choose_step,
    step_name,
)
from orchestrator.checkpoint.cut.coverage import why_left_out
from orchestrator.checkpoint.cut.global_steps import by_global_step
from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.files.strategy_files import Strategy
from orchestrator.checkpoint.hf_layout import HfModel, lay_out_huggingface
from orchestrator.checkpoint.host_files import HostFiles
from orchestrator.checkpoint.journal import Header, Journal
from orchestrator.checkpoint.output_layout import Format, OutputLayout, lay_out
from orchestrator.checkpoint.output_writer import OutputFiles, discard
from orchestrator.checkpoint.shard_index import Shard, ShardIndex
from orchestrator.checkpoint.unified_layout import lay_out_unified
from orchestrator.core.errors import CheckpointError, Interrupted, OrchestrateError, TransportError
from orchestrator.hosts.fleet import HostResults
from orchestrator.transfer.check_replicas import require_equal_replicas
from orchestrator.transfer.collect_iteration import Iteration, plan_iteration

__all__ = ["Collected", "Collection", "collect", "plan_collection", "planned_layout"]

_Answer = TypeVar("_Answer")
_FAN_OUT = 32


@dataclass(frozen=True, slots=True)
class Collection:
    """What is wanted: of which shards, and in which form.

    `step` None is the newest complete one, or without `latest` the one that a collection to the same output
    broke off at. `dtype` is MindSpore's name of a type that floats are written in. `source` names the run in
    journal and manifest, `placed` the host that each rank ran on. `replicated`: without strategy files, ranks
    are copies of one another; `needs_all`: ranks leave out what others have saved, so that each is needed,
    whatever the strategies say. `model` is for `huggingface` alone. `beside` are the files that will be put
    beside the output, with their SHA-256, for the manifest. `check_replicas`: before anything is brought, the
    hosts compare what several ranks hold, which reads all of it. `attempt` None is the one in force.
    `iteration`, of MindFormers' checkpoint 2.0, is collected in place of shards.
    """

    strategies: Mapping[int, Strategy] = field(default_factory=dict)
    world_size: int = 0
    format: Format = "ckpt"
    step: int | None = None
    latest: bool = False
    dtype: str | None = None
    with_optimizer: bool = False
    replicated: bool = False
    needs_all: bool = False
    model: HfModel | None = None
    source: str = ""
    placed: Mapping[int, str] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    check_replicas: bool = False
    attempt: int | None = None
    iteration: Iteration | None = None


def plan_collection(
    source: HostFiles, hosts: Sequence[str], wanted: Collection
) -> tuple[Choice, CopyPlan, dict[str, OrchestrateError]]:
    """Step, plan, and the hosts that gave no answer but are not needed; raises what `collect` does."""
    if wanted.iteration is not None:
        lost = wanted.iteration.files.keys() - set(hosts)
        options = (wanted.with_optimizer, wanted.format == "ckpt")
        return (*plan_iteration(source, wanted.iteration, *options, without=lost), {})
    listed = _ask(hosts, source.list_shards)
    files = by_global_step(listed.values)
    with_texts = wanted.format == "ckpt"

    def choose(failed: Failed) -> Choice:
        return choose_step(
            files,
            {} if wanted.needs_all else wanted.strategies,
            wanted.world_size,
            step=wanted.step,
            with_optimizer=wanted.with_optimizer,
            replicated=wanted.replicated,
            placed=wanted.placed,
            failed=failed,
        )

    def why_not(name: str, dtype: str) -> str:
        return why_left_out(name, dtype, wanted.with_optimizer, with_texts)

    def read(choice: Choice) -> tuple[list[Shard], Failed]:
        return _index(source, choice.files, why_not)

    try:
        choice, shards = choose_readable(choose, read)
    except CheckpointError:
        # What is missing is most likely there, on the hosts that gave no answer.
        listed.raise_on_error()
        raise
    whole = assemble(
        shards,
        wanted.strategies,
        world_size=wanted.world_size,
        with_optimizer=wanted.with_optimizer,
        with_texts=with_texts,
        replicated=wanted.replicated or wanted.needs_all,
    )
    if wanted.replicated:
        _require_whole(shards)
    if wanted.check_replicas:
        require_equal_replicas(source, whole, lambda *asked: _ask(*asked).raise_on_error())
    plan = plan_copies(whole, [whole_output(whole)])
    gone = {host: error for (host, _), error in choice.failed.items() if isinstance(error, TransportError)}
    return choice, plan, {**listed.errors, **gone}


def _require_whole(shards: Sequence[Shard]) -> None:
    """Replicas hold the same tensors; those that do not have each left out what others were to save."""
    for shard in shards[1:]:
        if other := sorted(shard.tensors.keys() ^ shards[0].tensors.keys()):
            here, there = (shard, shards[0]) if other[0] not in shard.tensors else (shards[0], shard)
            raise CheckpointError(
                f"lacks {other[0]}, which rank {there.rank} has: the ranks are no replicas of one another",
                where=f"{here.host}: {here.path}",
            )


def _index(
    source: HostFiles, files: Mapping[int, tuple[str, str]], why_not: Callable[[str, str], str]
) -> tuple[list[Shard], Failed]:
    """What each file holds, and the files that cannot be read: all of a host that is lost."""
    index = ShardIndex(why_not)
    failed: dict[tuple[str, str], OrchestrateError] = {}
    ranks: dict[str, list[int]] = {}
    for rank, (host, _) in files.items():
        ranks.setdefault(host, []).append(rank)

    def shards_on(host: str) -> list[Shard]:
        # One by one: an index is several times as large as what is kept of it.
        shards = []
        for rank in ranks[host]:
            path = files[rank][1]
            try:
                shards.append(index.shard(rank, host, path, source.index(host, path)))
            except TransportError as error:
                failed.update({(host, files[each][1]): error for each in ranks[host]})
                return []
            except OrchestrateError as error:
                failed[host, path] = error
        return shards

    answers = _ask(list(ranks), shards_on).values
    return [shard for shards in answers.values() for shard in shards], failed


def _ask(hosts: Sequence[str], question: Callable[[str], _Answer]) -> HostResults[_Answer]:
    """The answers, and the hosts that gave none: not reached, or without the run (a disk was replaced)."""
    answers: dict[str, _Answer] = {}
    lost: dict[str, OrchestrateError] = {}
    with ThreadPoolExecutor(min(_FAN_OUT, max(1, len(hosts))), thread_name_prefix="collect") as pool:
        futures = {host: pool.submit(question, host) for host in hosts}
        for host, future in futures.items():
            try:
                answers[host] = future.result()
            except OrchestrateError as error:
                lost[host] = error
    return HostResults(answers, lost)


_GO_ON = "the same command goes on from there"


@dataclass(frozen=True, slots=True)
class Collected:
    """What was written, from which step, and which hosts could not be asked but were not needed.

    `resumed` are the bytes that an earlier collection had brought, `beside` the other files that were put
    there.
    """

    path: Path
    choice: Choice
    plan: CopyPlan
    unreachable: Mapping[str, OrchestrateError]
    resumed: int
    size: int
    beside: Put = field(default_factory=Put)


def collect(
    source: HostFiles,
    hosts: Sequence[str],
    wanted: Collection,
    output: Path,
    options: CopyOptions | None = None,
    report: Report | None = None,
) -> Collected:
    """Write what is `wanted` to `output`, a file or for Hugging Face a folder: all of it or nothing.

    Only the slices that are needed are read, each once; memory is a few segments per stream. What a broken
    collection has brought stays beside the output and is not brought again.
    CheckpointError: no complete step, shards that contradict one another, no room. TransportError or
    HostsFailed: a host that is needed cannot be reached. Interrupted for a KeyboardInterrupt under way.
    """
    journal = Journal(output)
    work = _Work(source, list(hosts), wanted, output, journal, options or CopyOptions(), report or Report())
    try:
        return work.run()
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted{work.kept()}", remedy=_GO_ON if journal.done else "") from None
    except OrchestrateError:
        if journal.done:
            work.report.say(f"not finished{work.kept()} ({_GO_ON})")
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
    options: CopyOptions
    report: Report

    def run(self) -> Collected:
        segment_bytes = self.options.segment_bytes
        try:
            require_own_output(self.output, self.wanted.source)
            choice, plan, unreachable = self._plan()
            for line in choice.notes():
                self.report.say(line)
            layout = planned_layout(plan, self.wanted)
            header = _header(self.wanted, choice, plan, layout, segment_bytes)
            keep = self.journal.begin(header)
            with OutputFiles(self.output, layout, self.options, keep=keep) as file:
                segments = cut_segments(plan, layout.destinations, segment_bytes)
                resumed = self._check(segments, file)
                plan = self._copy(plan, segments, file, choice)
                text = manifest_text(
                    header,
                    plan,
                    layout,
                    segments,
                    self.journal,
                    segment_bytes,
                    beside=self.wanted.beside,
                    passed_over={step_name(at): f"lacks {why}" for at, why in choice.passed_over.items()},
                    left_aside={f"{host}: {path}": e.what for (host, path), e in choice.failed.items()},
                )
                with manifest_beside(self.output, text, durable=self.options.durable):
                    file.finish()
        except BaseException:
            self._tidy()
            raise
        self.journal.remove()
        return Collected(self.output, choice, plan, unreachable, resumed, layout.size)

    def _plan(self) -> tuple[Choice, CopyPlan, dict[str, OrchestrateError]]:
        """The plan; of the step that an earlier collection was at, where that is left open."""
        wanted, earlier = self.wanted, self.journal.earlier
        is_open = wanted.step is None and not wanted.latest and bool(self.journal.done)
        if is_open and earlier is not None and earlier.source == wanted.source:
            try:
                planned = plan_collection(self.source, self.hosts, replace(wanted, step=earlier.step))
            except CheckpointError:
                self.report.say(f"step {earlier.step}, which was begun, cannot be had any more")
            else:
                self.report.say(f"going on with step {earlier.step}, which was begun")
                return planned
        return plan_collection(self.source, self.hosts, wanted)

    def _check(self, segments: Sequence[Segment], file: OutputFiles) -> int:
        if self.journal.done:
            self.report.say("checking what an earlier collection has brought")
        return check_done(segments, file, self.journal)

    def _copy(self, plan: CopyPlan, segments: list[Segment], file: OutputFiles, choice: Choice) -> CopyPlan:
        """Until all is here; what a host that is lost under way had comes from replicas, if there are any."""
        while lost := copy_segments(self.source, segments, file, self.options, self.report, self.journal):
            plan = self._plan_without(HostResults({}, lost), choice, plan)
            segments[:] = [replace(each, copy=plan.copies[each.number]) for each in segments]
        return plan

    def _plan_without(self, lost: HostResults[None], choice: Choice, before: CopyPlan) -> CopyPlan:
        self.hosts = [host for host in self.hosts if host not in lost.errors]
        try:
            same_step = replace(self.wanted, step=choice.step, check_replicas=False)
            _, plan, _ = plan_collection(self.source, self.hosts, same_step)
        except OrchestrateError:
            lost.raise_on_error()
            raise
        if _regions(plan) != _regions(before):
            lost.raise_on_error()
        self.report.say("going on with replicas on other hosts")
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


def planned_layout(plan: CopyPlan, wanted: Collection) -> OutputLayout:
    """The output that a collection's plan fills."""
    if wanted.format == "huggingface":
        return lay_out_huggingface(plan.tensors, wanted.model, wanted.dtype)
    if wanted.format == "unified":
        return lay_out_unified(plan.tensors, wanted.dtype)
    return lay_out([plan.tensors], wanted.format, dtype=wanted.dtype)


def _regions(plan: CopyPlan) -> list[tuple[int, Region]]:
    return [(copy.tensor, copy.region) for copy in plan.copies]


def _header(
    wanted: Collection, choice: Choice, plan: CopyPlan, layout: OutputLayout, segment_bytes: int
) -> Header:
    """The signature is of all that decides which bytes go where; not of the hosts: replicas may differ."""
    at = [wanted.source, choice.epoch, choice.step, wanted.format, segment_bytes]
    tensors = (
        (one.source.name, one.source.dims, one.source.dtype, one.dtype, one.file, one.spans)
        for one in layout.destinations
    )
    signature = hashlib.sha256()
    for fact in chain([at], tensors, _regions(plan)):
        signature.update(json.dumps(fact).encode() + b"\n")
    return Header(signature.hexdigest(), wanted.source, (choice.epoch, choice.step), choice.identities)
