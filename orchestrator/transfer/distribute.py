"""Distributing a checkpoint: a file of whole tensors is cut for a job; each host gets what its ranks load.

With `checkpoint.resume` each rank also gets its part of the optimizer's state and how far the training was:
so a training goes on in another layout than that in which it was saved.

The shards are never files here: they are read out of the whole file as they are sent. On a host they are in
the content store, under their hashes, so that a launch finds them there and sends nothing again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.checkpoint.assemble import assemble
from orchestrator.checkpoint.compare import same_bits
from orchestrator.checkpoint.copy_engine import StreamedFile
from orchestrator.checkpoint.copy_plan import plan_copies, rank_outputs
from orchestrator.checkpoint.cut.coverage import is_moment
from orchestrator.checkpoint.cut.network_cut import NetworkCut
from orchestrator.checkpoint.host_files import MappedFiles
from orchestrator.checkpoint.open_checkpoint import open_checkpoint
from orchestrator.checkpoint.output_layout import lay_out
from orchestrator.checkpoint.shard_index import Shard
from orchestrator.config.job import Job
from orchestrator.config.job_network import family_of
from orchestrator.core.errors import CheckpointError
from orchestrator.core.records import Input
from orchestrator.families.registry import family_of_weights, table_again
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet
from orchestrator.hosts.push_content import ContentFile, Pushed, push_missing
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.placement import Placement

__all__ = [
    "LOADED",
    "Progress",
    "Shards",
    "Tell",
    "cut_for",
    "cut_of",
    "distribute",
    "hash_shards",
    "ranks_by_host",
    "with_inputs",
]

Progress = Callable[[str, int, int], None]
Tell = Callable[[str], object]
# Where a launch puts what its workers begin with, in the run's directory.
LOADED = "inputs/load"
# A disk or a line that stands still this long has failed.
_SEND_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of all ranks, each a stream or a file of this machine; replicas share one.

    `ranks` are those of each host, `names` where each file is below the folder that they load from. With
    `whole` the files are of no rank, and every host gets all of them.
    """

    files: Mapping[int, StreamedFile | ContentFile]
    ranks: Mapping[str, tuple[int, ...]]
    skipped: tuple[tuple[str, str], ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)
    whole: bool = False

    def of(self, host: str) -> tuple[int, ...]:
        """The numbers of the files that a host needs."""
        return tuple(self.files) if self.whole else self.ranks[host]

    def nbytes(self, host: str) -> int:
        """What the host has to hold: replicas on one host are one file."""
        files = [self.files[number] for number in self.of(host)]
        return sum(len(file) for file in {id(f): f for f in files}.values())

    def inputs(self, hashes: Mapping[int, str], folder: str) -> dict[str, list[Input]]:
        """What each host places in `folder` from its store."""
        return {
            host: [
                Input(f"{folder}/{self.names.get(number) or file_name(number)}", hashes[number])
                for number in self.of(host)
            ]
            for host in self.ranks
        }


def cut_for(job: Job, placements: Sequence[Placement], file: Path) -> Shards:
    """The shards of a job of a bundled model; only the index of `file` is read.

    CheckpointError: no checkpoint, names that are not the model's, tensors that do not fit the job's layout,
    no optimizer's state where the job resumes.
    """
    if not file.exists():
        raise CheckpointError("there is no such file", where=str(file))
    job = job.with_replicas(len(placements))
    resumes = job.train is not None and bool(job.checkpoint.resume)
    whole = assemble(
        [_without_table_again(open_checkpoint(file))], {}, with_optimizer=resumes, with_texts=False
    )
    if resumes and not any(is_moment(tensor.spec.name) for tensor in whole.tensors):
        what = "holds no optimizer's state, without which no training goes on"
        remedy = f"collect it with --with-optimizer, or see {job.where('checkpoint', 'resume')}"
        raise CheckpointError(what, where=str(file), remedy=remedy)
    try:
        specs = [tensor.spec for tensor in whole.tensors]
        strategies = cut_of(job, [spec.name for spec in specs]).strategies(specs)
        outputs = rank_outputs(whole, strategies)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=str(file), remedy=f"see {job.where('parallel')}") from error
    numbers: dict[tuple[object, ...], int] = {}
    for number, output in enumerate(outputs):
        numbers.setdefault(output.tensors, number)
    distinct = {number: outputs[number] for number in numbers.values()}
    plan = plan_copies(whole, list(distinct.values()))
    files = [output.specs for output in plan.outputs]
    layout = lay_out(files, "ckpt", names=[file_name(number) for number in distinct])
    streams = {number: StreamedFile(plan, layout, index) for index, number in enumerate(distinct)}
    of_ranks = {rank: streams[numbers[output.tensors]] for rank, output in enumerate(outputs)}
    return Shards(of_ranks, ranks_by_host(placements), whole.skipped)


def ranks_by_host(placements: Sequence[Placement]) -> dict[str, tuple[int, ...]]:
    """The ranks of each host, in their order."""
    ranks: dict[str, list[int]] = {}
    for placement in placements:
        ranks.setdefault(placement.host, []).append(placement.rank)
    return {host: tuple(mine) for host, mine in ranks.items()}


def _without_table_again(shard: Shard) -> Shard:
    """Without a second copy of the word embedding as the head. CheckpointError where it is not that."""
    pair = table_again(shard.tensors)
    if pair is None:
        return shard
    again, table = (shard.tensors[name] for name in pair)
    is_alike = (again.spec.dims, again.spec.dtype) == (table.spec.dims, table.spec.dtype)
    with MappedFiles() as files:
        paths = again.path or shard.path, table.path or shard.path
        if not (is_alike and same_bits(files, paths[0], again, paths[1], table)):
            what = f"{pair[0]} is not {pair[1]} again, but this network's head is its embedding"
            raise CheckpointError(what, where=shard.path, remedy="it is the checkpoint of another network")
    tensors = {name: stored for name, stored in shard.tensors.items() if name != pair[0]}
    skipped = (*shard.skipped, (pair[0], "the embedding again"))
    return dataclasses.replace(shard, tensors=tensors, skipped=skipped)


def cut_of(job: Job, names: Sequence[str]) -> NetworkCut:
    """The job's; where only the hosts know its family, the weights tell it."""
    family, parallel = family_of(job), job.parallel
    if family is None:
        known = family_of_weights(names)
        if known is None:
            raise CheckpointError("holds no weights of a bundled model")
        family = known[0]
    return NetworkCut(
        family,
        parallel.data_parallel,
        parallel.model_parallel,
        parallel.pipeline_stage,
        parallel.optimizer_shard,
    )


def file_name(rank: int) -> str:
    """As the workers look for their shard in a folder."""
    return f"rank_{rank}/checkpoint_rank_{rank}-0_0.ckpt"


def hash_shards(shards: Shards, progress: Progress | None = None) -> dict[int, str]:
    """The SHA-256 of each file. Reads the whole checkpoint once, replicas not again."""
    distinct = {id(file): file for file in shards.files.values()}
    total, done = sum(map(len, distinct.values())), 0
    hashes: dict[int, str] = {}
    for key, file in distinct.items():
        digest = hashlib.sha256()
        for chunk in file:
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress("reading", done, total)
        hashes[key] = digest.hexdigest()
    return {number: hashes[id(file)] for number, file in shards.files.items()}


def distribute(
    fleet: Fleet, shards: Shards, hashes: Mapping[int, str], progress: Progress | None = None
) -> dict[str, Pushed]:
    """Send every host the shards of its ranks that it has not yet; all hosts in parallel.

    A shard is there whole, with the right hash, or not at all. TransportError, AgentError or HostsFailed: of
    the hosts that failed; what the others got stays in their stores.
    """
    total = sum(shards.nbytes(host) for host in shards.ranks)
    lock, done = threading.Lock(), 0

    def count(nbytes: int) -> None:
        nonlocal done
        with lock:
            done += nbytes
            if progress:
                progress("sending", done, total)

    def send(agent: Agent) -> Pushed:
        wanted = {hashes[number]: shards.files[number] for number in shards.of(agent.host)}
        return push_missing(agent, wanted, timeout=_SEND_TIMEOUT, count=count)

    return fleet.each(send, shards.ranks).raise_on_error()


def with_inputs(plan: LaunchPlan, inputs: Mapping[str, Sequence[Input]]) -> LaunchPlan:
    """The plan whose hosts place these from their stores, too."""
    manifests = {
        name: dataclasses.replace(manifest, inputs=(*manifest.inputs, *inputs.get(name, ())))
        for name, manifest in plan.manifests.items()
    }
    return dataclasses.replace(plan, manifests=manifests)
