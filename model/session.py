"""What a worker has in hand before it trains or answers: its place, its groups, its context."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import mindspore as ms
import mindspore.communication as comm
import numpy as np

from model.errors import TrainingError
from model.parallel import Groups, Place, Strategy, gather_small, start_groups
from model.settings import Settings, Worker

__all__ = ["Session", "check_same_on_all_ranks", "open_session", "serve_scheduler", "strategy_of"]


@dataclass(frozen=True, slots=True)
class Session:
    """One worker among the others."""

    strategy: Strategy
    place: Place
    groups: Groups

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Every rank's small vector of whole numbers, in rank order."""
        return gather_small(values, self.place.rank, self.strategy.world_size, self.groups.world)


def strategy_of(settings: Settings, worker: Worker) -> Strategy:
    """The job's strategy, checked against the world and against what this version can do."""
    parallel = settings.parallel
    strategy = Strategy(
        parallel.data_parallel,
        parallel.model_parallel,
        parallel.pipeline_stage,
        parallel.optimizer_shard,
        settings.bloom().vocab_size,
        parallel.use_seq_parallel and settings.task not in ("predict", "chat"),
    )
    strategy.check(worker.world_size)
    return strategy


def set_context(settings: Settings, worker: Worker) -> None:
    """Compile whole graphs for the device; the only thing that differs between CPU and Ascend."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_recursion_limit(100_000)  # a training step of 24 blocks is deeper than the default of 1000
    if settings.device_target == "Ascend":
        ms.set_device("Ascend", worker.device_id)
        if settings.max_device_memory:
            ms.runtime.set_memory(max_size=settings.max_device_memory)
    else:
        ms.set_device("CPU")


def serve_scheduler(settings: Settings, worker: Worker) -> None:
    """Bring the workers together and return when the last of them is gone."""
    set_context(settings, worker)
    comm.init()


def open_session(settings: Settings, worker: Worker) -> Session:
    """Join the other workers; alone, there is nothing to join."""
    strategy = strategy_of(settings, worker)
    set_context(settings, worker)
    if worker.world_size > 1:
        comm.init()
    place = strategy.place(worker.rank)
    return Session(strategy, place, start_groups(strategy, place))


def check_same_on_all_ranks(session: Session, facts: dict[str, bytes]) -> None:
    """Raise TrainingError naming the ranks whose facts (by name: any bytes) differ from rank 0's."""
    words = 8  # of 16 bits, which a float32 sum holds exactly
    digests = [np.frombuffer(hashlib.sha256(fact).digest()[: 2 * words], "<u2") for fact in facts.values()]
    table = session.gather(np.concatenate(digests))
    for index, name in enumerate(facts):
        part = table[:, index * words : (index + 1) * words]
        others = [str(rank) for rank in range(len(part)) if not np.array_equal(part[rank], part[0])]
        if others:
            raise TrainingError(
                f"{name} differs from rank 0's",
                where=f"rank {', '.join(others)}",
                remedy="every host needs the same files and the same versions",
            )
