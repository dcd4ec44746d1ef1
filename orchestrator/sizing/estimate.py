"""The estimate of a job from shapes alone: memory of each rank, bytes on each link, and the bubble."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.checkpoint.cut.slices import cuts
from orchestrator.config.yaml_messages import show
from orchestrator.families.family import Weight
from orchestrator.families.network_layers import NetworkLayers
from orchestrator.sizing.device_memory import PoolRoom, communicators
from orchestrator.sizing.step_workload import Workload

__all__ = ["Estimate", "StageEstimate", "estimate", "size_of"]


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


def estimate(network: NetworkLayers, workload: Workload) -> Estimate:
    """Estimate a workload that has no problems."""
    stages = tuple(_stage(network, workload, stage) for stage in range(workload.cut.pipeline_stage))
    return Estimate(
        stages=stages,
        model_traffic=_model_traffic(network, workload),
        data_traffic=_data_traffic(network, workload, stages),
        pipeline_traffic=_pipeline_traffic(network, workload),
        bubble=workload.bubble,
    )


def _stage(network: NetworkLayers, workload: Workload, stage: int) -> StageEstimate:
    cut, trains = workload.cut, workload.trains
    blocks = workload.blocks(network.num_layers, stage)
    held = [
        Held(row, network.shape(row), network.width(row.type), blocks if row.stage == "block" else 1)
        for row in network.family.weights
        if row.stage == "block" or stage in cut.stages(row.name, network.num_layers)
    ]
    groups = communicators(cut, stage)
    weights = sum(_stored(item, workload) * item.width * item.times for item in held)
    parameters = sum(_local(item, workload) * item.times for item in held)
    return StageEstimate(
        stage=stage,
        blocks=blocks,
        parameters=parameters,
        weights=weights,
        gradients=_gradients(held, workload) if trains else 0,
        optimizer=sum(_moments(item, workload) * item.times for item in held) if trains else 0,
        activations=max(
            _activations(network, workload, stage) + _copies(network, held, workload, stage),
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


def _stored(item: Held, workload: Workload) -> int:
    """Values of it that a rank keeps between two steps."""
    if workload.shares_weights:
        return _moments(item, workload) // (2 * _FLOAT32)
    return _local(item, workload)


def _copies(network: NetworkLayers, held: Sequence[Held], workload: Workload, stage: int) -> int:
    """Weights in the type that is computed with, where they are stored in another or in parts.

    They are kept up to the backward pass. What is recomputed makes them again, block by block, but what was
    gathered is kept unless that is repeated, too.
    """
    if not (workload.automatic and workload.trains):
        return 0
    width = network.width("compute_dtype")
    blocks, again = (count(network.num_layers, stage) for count in (workload.blocks, workload.blocks_again))
    if not workload.shares_weights or workload.gathers_again:
        blocks = blocks - again + min(again, 1)
    copied = (item for item in held if workload.shares_weights or item.width != width)
    return sum(
        _local(item, workload) * width * (blocks if item.row.stage == "block" else 1) for item in copied
    )


def _gradients(held: Sequence[Held], workload: Workload) -> int:
    """In float32, from the sums of a step up to those of the next.

    On an Ascend, replicas that share the optimizer's state keep their pieces of them: beside the sums of
    micro batches, or instead of the sums where there are none.

    MindSpore's automatic parallelism keeps them in the type of the weights: the sums of micro batches whole
    unless it is told to keep pieces (`accu_grads`, a clone of the weights).
    """
    if workload.automatic:
        has_pieces = not workload.accumulates or workload.accumulates_pieces
        held_of = _stored if has_pieces else _local
        return sum(held_of(item, workload) * item.width * item.times for item in held)
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
    if workload.automatic:
        pieces = sum(_stored(item, workload) * item.width * item.times for item in held)
        return max(own, pieces if workload.shares_weights else 0) if workload.accumulates else 0
    if workload.cut.data_parallel == 1:
        return own
    sums = _FLOAT32 * sum(_local(item, workload) * item.times for item in held)
    flat = min(sums, 2 * _FLAT_BUFFER)
    # Pieces of what micro batches have summed are among the gradients already.
    return max(own, flat if _in_pieces(workload) and workload.accumulates else sums + flat)


def _activations(network: NetworkLayers, workload: Workload, stage: int) -> int:
    """What is kept from the forward to the backward pass, and what one block or the head needs on top.

    A pipeline stage of ours keeps only the input of each micro batch that is under way: its backward pass
    computes the stage again. With MindSpore's automatic parallelism it keeps all that the pass needs.
    """
    t, stages = workload.cut.model_parallel, workload.cut.pipeline_stage
    tokens = workload.micro_batch * network.seq_length // workload.context_parts
    inputs = tokens * network.hidden_size * network.state_width // workload.sequence_parts
    # All of it is in proportion to the tokens of a rank, pairs included.
    block = (
        network.block_activations(
            workload.micro_batch, t, flash=workload.flash, cuts_sequence=workload.sequence_parts > 1
        )
        // workload.context_parts
    )
    # Logits, their logarithms and their gradient, in float32; the vocabulary may be cut.
    parts = t if network.family.table.axis is not None else 1
    head = 3 * _FLOAT32 * tokens * network.vocab_size // parts if stage == stages - 1 else 0
    if not workload.trains:
        return block + head // 3
    blocks, again = (
        workload.blocks(network.num_layers, stage),
        workload.blocks_again(network.num_layers, stage),
    )
    kept = again * inputs + (blocks - again) * block
    if workload.selected:
        spared = network.mlp_products(workload.micro_batch, t) // workload.context_parts
        kept -= min(workload.selected[stage], blocks - again) * spared
    extra = block if again else 0
    if workload.automatic:
        return math.ceil(workload.under_way(stage) * kept) + extra + head
    under_way = min(workload.micro_batch_num, stages - stage) if stages > 1 else 0
    return under_way * inputs + kept + extra + head


def _cache(network: NetworkLayers, workload: Workload, blocks: int) -> int:
    """Keys and values of every position."""
    width = network.kv_size // workload.cut.model_parallel * network.width("compute_dtype")
    tokens = workload.cache_tokens or workload.batch_size * network.seq_length // workload.context_parts
    return 2 * blocks * tokens * width


def _ring(size: int, ranks: int) -> int:
    """What one rank sends in a ring all-reduce of `size` bytes."""
    return 2 * size * (ranks - 1) // ranks


def _model_traffic(network: NetworkLayers, workload: Workload) -> int:
    """Two all-reduces a block in the forward pass and two in the backward one, of one hidden state each."""
    tokens = workload.batch_size * network.seq_length // workload.context_parts
    state = tokens * network.hidden_size * network.width("compute_dtype")
    passes = 2 if workload.trains else 1
    blocks = max(
        passes * workload.blocks(network.num_layers, stage)
        + (workload.blocks_again(network.num_layers, stage) if workload.trains else 0)
        for stage in range(workload.cut.pipeline_stage)
    )
    return 2 * blocks * _ring(state, workload.cut.model_parallel)


def _data_traffic(network: NetworkLayers, workload: Workload, stages: tuple[StageEstimate, ...]) -> int:
    """One all-reduce of the gradients, as float32; of shared weights one half of it, and their gathering."""
    if not workload.trains:
        return 0
    values, ranks = max(stage.parameters for stage in stages), workload.cut.data_parallel
    if not workload.shares_weights:
        return _ring(values * _FLOAT32, ranks)
    times = 2 if workload.gathers_again else 1
    return _ring(values * (_FLOAT32 + times * network.width("compute_dtype")), ranks) // 2


def _pipeline_traffic(network: NetworkLayers, workload: Workload) -> int:
    """One hidden state forward and its gradient backward, a micro batch."""
    if workload.cut.pipeline_stage == 1:
        return 0
    parts = workload.sequence_parts * workload.context_parts
    tokens = workload.batch_size * network.seq_length * workload.interleave // parts
    return (2 if workload.trains else 1) * tokens * network.hidden_size * network.width("compute_dtype")
