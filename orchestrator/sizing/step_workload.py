"""What there is to do in a step, and how the ranks share it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from orchestrator.checkpoint.cut.network_cut import NetworkCut, stage_blocks
from orchestrator.config.inventory import Chip
from orchestrator.config.job import Job
from orchestrator.config.job_network import network_of
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.network_layers import NetworkLayers
from orchestrator.sizing.device_memory import hccl_buffer_of

__all__ = ["Workload", "flash_serves", "workload_of"]

_MOST_RANKS, _MOST_STAGES = 1_000_000, 4_096  # beyond any machine; each stage is computed


@dataclass(frozen=True, slots=True)
class Workload:
    """Degrees, and the batch of one replica; `ranks_per_host` tells which traffic leaves a host.

    `hccl_buffer` is the bytes of one of HCCL's buffers, 0 where there is no HCCL. `flash`: Ascend's kernel
    computes attention; `cuts_sequence`: between the cut layers the model group shares the sequence;
    `scatters`: the sum of gradients that replicas share out leaves each one its piece, as on an Ascend.

    The rest is of MindSpore's automatic parallelism alone, as MindFormers uses it (`automatic`). Then a stage
    keeps the activations of all micro batches under way, and what shares out the optimizer's state shares out
    the weights, too, which are gathered, for the backward pass once more where `gathers_again`, and sums of
    micro batches' gradients where `accumulates_pieces`.
    `context_parts`: so many ranks of the data group share each sequence. `interleave`: chunks of a stage.
    `stage_layers` and `recomputed`: blocks of each stage, () where they are dealt out evenly, and where
    `recompute` says it of all; `selected`: those of which only products in the MLP are recomputed.
    `cache_tokens`: positions that the cache of an answering one has room for.
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
    automatic: bool = False
    gathers_again: bool = False
    accumulates_pieces: bool = False
    context_parts: int = 1
    interleave: int = 1
    stage_layers: tuple[int, ...] = ()
    recomputed: tuple[int, ...] = ()
    selected: tuple[int, ...] = ()
    cache_tokens: int | None = None

    @property
    def replicas(self) -> int:
        """How many sequences, or batches of them, are computed next to each other."""
        return self.cut.data_parallel // self.context_parts

    @property
    def shares_weights(self) -> bool:
        """Whether each replica keeps a part of the weights only."""
        return self.automatic and self.cut.optimizer_shard and self.cut.data_parallel > 1

    def blocks(self, num_layers: int, stage: int) -> int:
        """How many blocks a stage has."""
        if self.stage_layers:
            return self.stage_layers[stage]
        return len(stage_blocks(num_layers, self.cut.pipeline_stage, stage))

    def blocks_again(self, num_layers: int, stage: int) -> int:
        """How many of them are computed a second time in the backward pass."""
        if self.recomputed:
            return min(self.recomputed[stage], self.blocks(num_layers, stage))
        return self.blocks(num_layers, stage) if self.recompute else 0

    def under_way(self, stage: int) -> float:
        """Of how many micro batches a stage keeps the activations at most, in 1F1B.

        Interleaved, it is so many chunks: Narayanan et al. (2021), 2.2, as Megatron-LM schedules it.
        """
        stages, chunks = self.cut.pipeline_stage, self.interleave
        if chunks == 1:
            return min(self.micro_batch_num, stages - stage) if stages > 1 else 1
        ahead = 2 * (stages - stage - 1) + (chunks - 1) * stages + 1
        return min(self.micro_batch_num * chunks, ahead) / chunks

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

        With v chunks a stage (p-1) / (vm+p-1).
        Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters" (2021), 2.2.
        """
        stages = self.cut.pipeline_stage
        return (stages - 1) / (self.micro_batch_num * self.interleave + stages - 1)

    def problems(self, network: NetworkLayers) -> Iterator[tuple[str, str, str]]:
        """(key of `parallel`, what is wrong, what to do) for a network that cannot be cut in this way."""
        if self.cut.world_size > _MOST_RANKS or self.cut.pipeline_stage > _MOST_STAGES:
            key = "pipeline_stage" if self.cut.pipeline_stage > _MOST_STAGES else "data_parallel"
            what = f"{self.cut.world_size:,} ranks in {self.cut.pipeline_stage:,} stages are not estimated"
            yield key, what, f"stay below {_MOST_RANKS:,} ranks and {_MOST_STAGES:,} stages"
        if network.seq_length % self.context_parts:
            what = f"seq_length {network.seq_length} cannot be cut into {self.context_parts} equal parts"
            yield "context_parallel", what, "choose a divisor"
        yield from network.cut_problems(self.cut.model_parallel, self.cut.pipeline_stage, self.sequence_parts)

    def with_cut(self, cut: NetworkCut, global_batch: int, micro_batch_num: int) -> Workload:
        """The same work of all replicas together, spread in another way."""
        return replace(
            self,
            cut=cut,
            batch_size=global_batch * self.context_parts // cut.data_parallel,
            micro_batch_num=micro_batch_num,
            recomputed=(),
            selected=(),
            stage_layers=(),
            interleave=1,
        )


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
