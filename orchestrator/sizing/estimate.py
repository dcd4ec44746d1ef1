"""The estimate of a job from shapes alone: memory of each rank, bytes on each link, and the bubble."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.checkpoint.cut.network_cut import NetworkCut, stage_blocks
from orchestrator.checkpoint.cut.slices import cuts
from orchestrator.config.inventory import Chip
from orchestrator.config.job import Job
from orchestrator.config.job_network import network_of
from orchestrator.config.yaml_messages import show
from orchestrator.families.family import Weight
from orchestrator.families.network_config import NetworkConfig
from orchestrator.sizing.device_memory import PoolRoom, communicators, hccl_buffer_of

__all__ = [
    "Estimate",
    "StageEstimate",
    "Workload",
    "estimate",
    "flash_serves",
    "size_of",
    "workload_of",
]


@dataclass(frozen=True, slots=True)
class Workload:
    """Degrees, and the batch of one replica; `ranks_per_host` tells which traffic leaves a host.

    `hccl_buffer` is the bytes of one of HCCL's buffers, 0 where there is no HCCL. `flash`: Ascend's kernel
    computes attention; `cuts_sequence`: between the cut layers the model group shares the sequence;
    `scatters`: the sum of gradients that replicas share out leaves each one its piece, as on an Ascend.
    """

    cut: NetworkCut
    batch_size: int
    micro_batch_num: int
    recompute: bool
    trains: bool
    ranks_per_host: int
    hccl_buffer: int = 0
    flash: bool = False
    cuts_sequence: bool = False
    scatters: bool = False

    @property
    def sequence_parts(self) -> int:
        """Into how many parts the sequence is cut between the cut layers."""
        return self.cut.model_parallel if self.cuts_sequence else 1

    @property
    def micro_batch(self) -> int:
        """Sequences that one rank computes at a time."""
        return max(1, self.batch_size // self.micro_batch_num)

    @property
    def accumulates(self) -> bool:
        """Whether the gradients of micro batches are summed."""
        return self.micro_batch_num > 1 or self.cut.pipeline_stage > 1

    @property
    def bubble(self) -> float:
        """The share of a step in which a stage waits: (p-1) / (m+p-1), for 1F1B as for GPipe.

        Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters" (2021), 2.2.
        """
        stages = self.cut.pipeline_stage
        return (stages - 1) / (self.micro_batch_num + stages - 1)

    def problems(self, network: NetworkConfig) -> Iterator[tuple[str, str, str]]:
        """(key of `parallel`, what is wrong, what to do) for a network that cannot be cut in this way."""
        if self.cut.world_size > _MOST_RANKS or self.cut.pipeline_stage > _MOST_STAGES:
            key = "pipeline_stage" if self.cut.pipeline_stage > _MOST_STAGES else "data_parallel"
            what = f"{self.cut.world_size:,} ranks in {self.cut.pipeline_stage:,} stages are not estimated"
            yield key, what, f"stay below {_MOST_RANKS:,} ranks and {_MOST_STAGES:,} stages"
        yield from network.cut_problems(self.cut.model_parallel, self.cut.pipeline_stage, self.sequence_parts)

    def with_cut(self, cut: NetworkCut, global_batch: int, micro_batch_num: int) -> Workload:
        """The same work of all replicas together, spread in another way."""
        size = global_batch // cut.data_parallel
        return replace(self, cut=cut, batch_size=size, micro_batch_num=micro_batch_num)


def flash_serves(job: Job, network: NetworkConfig, chips: Collection[Chip] = ()) -> bool:
    """Whether a training computes attention in Ascend's kernel, as the worker decides it.

    `chips` are those of the hosts, as far as they are known: a 910A has no such kernel.
    """
    asked = job.train is not None and network.use_flash_attention and job.device_target == "Ascend"
    head = network.head_size
    dropped = bool(network.attention_dropout_rate) and network.seq_length % 8 != 0
    takes = network.compute_dtype != "float32" and head % 16 == 0 and head <= 512 and not dropped
    return asked and takes and "910A" not in chips


def workload_of(job: Job, chips: Collection[Chip] = ()) -> Workload:
    """The workload of a job of a bundled network, on hosts of these `chips` as far as they are known.

    Raises ConfigError: no network (see `network_of`), buffers that HCCL refuses.
    """
    parallel, train, network = job.parallel, job.train, network_of(job)
    cut = NetworkCut(
        network.family,
        parallel.data_parallel,
        parallel.model_parallel,
        parallel.pipeline_stage,
        parallel.optimizer_shard,
    )
    parts = parallel.micro_batch_num * (train.gradient_accumulation if train else 1)
    return Workload(
        cut=cut,
        batch_size=train.batch_size if train else 1,
        micro_batch_num=parts,
        recompute=train.recompute if train else False,
        trains=train is not None,
        ranks_per_host=job.devices_per_host,
        hccl_buffer=hccl_buffer_of(job),
        flash=flash_serves(job, network, chips),
        cuts_sequence=train is not None and parallel.use_seq_parallel and parallel.model_parallel > 1,
        scatters=job.device_target == "Ascend",
    )


_MOST_RANKS, _MOST_STAGES = 1_000_000, 4_096  # beyond any machine; each stage is computed
_FLOAT32 = 4
_BLOCKS_ON_THEIR_WAY = 3
_FLAT_BUFFER = 128 * 2**20  # of the bundled model's all-reduce of gradients
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def size_of(text: str) -> int:
    """Bytes of `31GB`, `512MB` or `31GiB`, as MindSpore counts them: in powers of 1024.

    At most six digits before the point are taken, or a plain number of bytes. Raises ValueError.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if found is None or (found[2] and len(found[1].partition(".")[0]) > 6):
        raise ValueError(f"{show(text)} is no size such as 31GB")
    size = int(float(found[1]) * (1 << _UNITS[found[2].upper()]))
    if size <= 0:
        raise ValueError(f"{show(text)} is nothing; give a size such as 31GB")
    return size


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """One rank of a pipeline stage; all ranks of a stage hold as much. Sizes in bytes.

    `activations` is the most that a step needs for a while: activations, or buffers for gradients. `total` is
    of MindSpore's memory pool; the buffers of HCCL's `communicators` lie outside it.
    """

    stage: int
    blocks: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    cache: int
    communicators: tuple[str, ...] = ()
    hccl_buffers: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.cache

    @property
    def on_device(self) -> int:
        """The pool's and HCCL's together."""
        return self.total + self.hccl_buffers


@dataclass(frozen=True, slots=True)
class Estimate:
    """A whole job. Traffic is what one rank sends per step, in bytes, by the group it goes to."""

    stages: tuple[StageEstimate, ...]
    model_traffic: int
    data_traffic: int
    pipeline_traffic: int
    bubble: float

    @property
    def largest(self) -> StageEstimate:
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def most_on_device(self) -> StageEstimate:
        return max(self.stages, key=lambda stage: stage.on_device)

    @property
    def most_buffers(self) -> StageEstimate:
        """The first stage of those with most of HCCL's buffers; `max_device_memory` is the same for all."""
        return max(self.stages, key=lambda stage: stage.hccl_buffers)

    def room(self, limit: int, hbm: int, buffer: int) -> PoolRoom:
        """What is left of a device beside the pool and the buffers of the rank with most communicators."""
        return PoolRoom(limit, self.largest.total, len(self.most_buffers.communicators), buffer, hbm)

    def fits(self, limit: int | None, hbm: int | None) -> bool:
        """Whether every rank's pool stays in `limit`, and with HCCL's buffers in `hbm`; None: no limit."""
        in_pool = limit is None or self.largest.total <= limit
        return in_pool and (hbm is None or self.most_on_device.on_device <= hbm)


def estimate(network: NetworkConfig, workload: Workload) -> Estimate:
    """Estimate a workload that has no problems."""
    stages = tuple(_stage(network, workload, stage) for stage in range(workload.cut.pipeline_stage))
    return Estimate(
        stages=stages,
        model_traffic=_model_traffic(network, workload),
        data_traffic=_data_traffic(workload, stages),
        pipeline_traffic=_pipeline_traffic(network, workload),
        bubble=workload.bubble,
    )


def _stage(network: NetworkConfig, workload: Workload, stage: int) -> StageEstimate:
    cut, trains = workload.cut, workload.trains
    blocks = len(stage_blocks(network.num_layers, cut.pipeline_stage, stage))
    held = [
        Held(row, network.shape(row), network.width(row.type), blocks if row.stage == "block" else 1)
        for row in network.family.weights
        if row.stage == "block" or stage in cut.stages(row.name, network.num_layers)
    ]
    groups = communicators(cut, stage)
    weights = sum(_local(item, workload) * item.width * item.times for item in held)
    parameters = sum(_local(item, workload) * item.times for item in held)
    return StageEstimate(
        stage=stage,
        blocks=blocks,
        parameters=parameters,
        weights=weights,
        gradients=_gradients(held, workload) if trains else 0,
        optimizer=sum(_moments(item, workload) * item.times for item in held) if trains else 0,
        activations=max(
            _activations(network, workload, stage, blocks),
            _gradient_buffers(held, workload) if trains else 0,
        ),
        cache=0 if trains else _cache(network, workload, blocks),
        communicators=groups if workload.hccl_buffer else (),
        hccl_buffers=len(groups) * 2 * workload.hccl_buffer,
    )


@dataclass(frozen=True, slots=True)
class Held:
    """A parameter that a rank holds `times`: its whole shape, and the bytes of one value."""

    row: Weight
    shape: tuple[int, ...]
    width: int
    times: int


def _local(item: Held, workload: Workload, prefix: str = "") -> int:
    cut = workload.cut
    layout = cut.layout(prefix + cut.family.name_of(item.row, 0), item.shape)
    return math.prod(item.shape) // math.prod(cuts(layout))


def _moments(item: Held, workload: Workload) -> int:
    """Two float32 moments a value; with `optimizer_shard` each replica keeps its part of them."""
    return 2 * _FLOAT32 * _local(item, workload, "adam_m.")


def _gradients(held: Sequence[Held], workload: Workload) -> int:
    """In float32, from the sums of a step up to those of the next.

    On an Ascend, replicas that share the optimizer's state keep their pieces of them: beside the sums of
    micro batches, or instead of the sums where there are none.
    """
    whole = _FLOAT32 * sum(_local(item, workload) * item.times for item in held)
    if not _in_pieces(workload):
        return whole
    shared = [item for item in held if _moments(item, workload) < 2 * _FLOAT32 * _local(item, workload)]
    pieces = sum(_moments(item, workload) * item.times for item in shared) // 2
    if workload.accumulates:
        return whole + pieces
    return whole - _FLOAT32 * sum(_local(item, workload) * item.times for item in shared) + pieces


def _in_pieces(workload: Workload) -> bool:
    cut = workload.cut
    return workload.scatters and cut.optimizer_shard and cut.data_parallel > 1


def _gradient_buffers(held: Sequence[Held], workload: Workload) -> int:
    """What stands beside the kept gradients when there are no activations any more.

    In a backward pass the gradients on their way: all of them, or, where they are added to those of other
    micro batches as they come, about three blocks' (measured: bench/parallel.py); and of a table or head, or,
    where one stage has both uses of a tied table, two and their sum. Later, over replicas, the summed
    gradients and two flat buffers for the all-reduce.
    """
    sizes = [(item, _local(item, workload) * item.width) for item in held]
    block = sum(size for item, size in sizes if item.row.stage == "block")
    count = max((item.times for item in held if item.row.stage == "block"), default=0)
    on_their_way = block * (min(count, _BLOCKS_ON_THEIR_WAY) if workload.accumulates else count)
    of_tied = 3 if workload.cut.pipeline_stage == 1 else 1
    tables = (
        (size, of_tied if item.row.stage == "both" else 1) for item, size in sizes if item.row.has_padding
    )
    own = on_their_way + sum(size * times for size, times in tables)
    if workload.cut.data_parallel == 1:
        return own
    sums = _FLOAT32 * sum(_local(item, workload) * item.times for item in held)
    flat = min(sums, 2 * _FLAT_BUFFER)
    # Pieces of what micro batches have summed are among the gradients already.
    return max(own, flat if _in_pieces(workload) and workload.accumulates else sums + flat)


def _activations(network: NetworkConfig, workload: Workload, stage: int, blocks: int) -> int:
    """What is kept from the forward to the backward pass, and what one block or the head needs on top.

    A pipeline stage keeps only the input of each micro batch that is under way: its backward pass computes
    the stage again.
    """
    t, stages = workload.cut.model_parallel, workload.cut.pipeline_stage
    tokens = workload.micro_batch * network.seq_length
    inputs = tokens * network.hidden_size * network.width("compute_dtype") // workload.sequence_parts
    block = network.block_activations(
        workload.micro_batch, t, flash=workload.flash, cuts_sequence=workload.sequence_parts > 1
    )
    # Logits, their logarithms and their gradient, in float32; the vocabulary is cut.
    head = 3 * _FLOAT32 * tokens * network.vocab_size // t if stage == stages - 1 else 0
    if not workload.trains:
        return block + head // 3
    under_way = min(workload.micro_batch_num, stages - stage) if stages > 1 else 0
    again = blocks * inputs + block if workload.recompute else blocks * block
    return under_way * inputs + again + head


def _cache(network: NetworkConfig, workload: Workload, blocks: int) -> int:
    """Keys and values of every position."""
    width = network.kv_size // workload.cut.model_parallel * network.width("compute_dtype")
    return 2 * blocks * workload.batch_size * network.seq_length * width


def _ring(size: int, ranks: int) -> int:
    """What one rank sends in a ring all-reduce of `size` bytes."""
    return 2 * size * (ranks - 1) // ranks


def _model_traffic(network: NetworkConfig, workload: Workload) -> int:
    """Two all-reduces a block in the forward pass and two in the backward one, of one hidden state each."""
    t, p = workload.cut.model_parallel, workload.cut.pipeline_stage
    tokens = workload.batch_size * network.seq_length
    state = tokens * network.hidden_size * network.width("compute_dtype")
    blocks = max(len(stage_blocks(network.num_layers, p, stage)) for stage in range(p))
    passes = (3 if workload.recompute else 2) if workload.trains else 1
    return 2 * passes * blocks * _ring(state, t)


def _data_traffic(workload: Workload, stages: tuple[StageEstimate, ...]) -> int:
    """One all-reduce of the gradients, as float32."""
    if not workload.trains:
        return 0
    return _ring(max(stage.parameters for stage in stages) * _FLOAT32, workload.cut.data_parallel)


def _pipeline_traffic(network: NetworkConfig, workload: Workload) -> int:
    """One hidden state forward and its gradient backward, a micro batch."""
    if workload.cut.pipeline_stage == 1:
        return 0
    tokens = workload.batch_size * network.seq_length // workload.sequence_parts
    return (2 if workload.trains else 1) * tokens * network.hidden_size * network.width("compute_dtype")
