"""What one step of a job computes, and over how many ranks it is spread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from orchestrator.checkpoint.bloom_cut import BloomCut
from orchestrator.job import Job
from orchestrator.sizing.device_memory import hccl_buffer_of
from orchestrator.sizing.network import Network

__all__ = ["Workload", "workload_of"]


@dataclass(frozen=True, slots=True)
class Workload:
    """Degrees, and the batch of one replica; `ranks_per_host` tells which traffic leaves a host.

    `hccl_buffer` is the bytes of one of HCCL's buffers, 0 where there is no HCCL.
    """

    cut: BloomCut
    batch_size: int
    micro_batch_num: int
    recompute: bool
    trains: bool
    ranks_per_host: int
    hccl_buffer: int = 0

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

    def problems(self, network: Network) -> Iterator[tuple[str, str]]:
        """(key of `parallel`, what is wrong) for a network that cannot be cut in this way."""
        mp, pp = self.cut.model_parallel, self.cut.pipeline_stage
        for name, value in (("num_heads", network.num_heads), ("the MLP's size", network.ffn_size)):
            if value % mp:
                yield "model_parallel", f"{name} {value} cannot be cut into {mp} equal parts"
        if pp > network.num_layers:
            yield "pipeline_stage", f"{pp} stages for {network.num_layers} blocks"

    def with_cut(self, cut: BloomCut, global_batch: int, micro_batch_num: int) -> Workload:
        """The same work of all replicas together, spread in another way."""
        size = global_batch // cut.data_parallel
        return replace(self, cut=cut, batch_size=size, micro_batch_num=micro_batch_num)


def workload_of(job: Job) -> Workload:
    """The workload of a job of the bundled model. Raises ConfigError for buffers that HCCL refuses."""
    parallel, train = job.parallel, job.train
    cut = BloomCut(
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
    )
