"""A worker among the others: its device, place and groups; what rank 0 broadcasts to its group."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import mindspore as ms
import mindspore.communication as comm
import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from model.config.settings import Settings, Worker
from model.devices.device_choice import compute_deterministically, use_device
from model.devices.device_name import CPU, DeviceName
from model.errors import TrainingError
from model.parallel.mesh import Groups, Place, Strategy, gather_small, start_groups
from orchestrator.config.worker_config import TRAINING

__all__ = [
    "GroupBroadcast",
    "Session",
    "check_same_on_all_ranks",
    "open_alone",
    "open_session",
    "serve_scheduler",
    "strategy_of",
]


@dataclass(frozen=True, slots=True)
class Session:
    """One worker among the others."""

    strategy: Strategy
    place: Place
    groups: Groups

    def gather(self, values: NDArray[Any]) -> NDArray[Any]:
        """Every rank's small vector of whole numbers, in rank order."""
        return gather_small(values, self.place.rank, self.strategy.world_size, self.groups.world)


def strategy_of(settings: Settings, worker: Worker) -> Strategy:
    """The job's strategy, checked against the world and against what this version can do."""
    degrees = asdict(settings.parallel)
    degrees["use_seq_parallel"] &= settings.task in TRAINING
    if settings.model is None:  # without a network there is no vocabulary to shard
        strategy = Strategy(**degrees)
    else:
        config = settings.network()
        strategy = Strategy(**degrees, vocab_size=config.vocab_size, family=config.family)
    strategy.check(worker.world_size)
    return strategy


def set_context(device: DeviceName, jit_level: str | None = None) -> None:
    """Compile whole graphs for the device, which is chosen already; what differs on Ascend is set here."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_recursion_limit(100_000)  # a training step of 24 blocks is deeper than the default of 1000
    if device.target == "Ascend" and jit_level:
        ms.set_context(jit_config={"jit_level": jit_level})


def _start(settings: Settings, worker: Worker) -> None:
    """The worker's device and context, before anything is computed."""
    device = use_device(_device_of(settings, worker), "device_target")
    set_context(device, settings.level)
    if device.target == "Ascend" and settings.max_device_memory:
        ms.runtime.set_memory(max_size=settings.max_device_memory)
    if settings.train.deterministic:
        compute_deterministically()


def _device_of(settings: Settings, worker: Worker) -> DeviceName:
    return DeviceName("Ascend", worker.device_id) if settings.device_target == "Ascend" else CPU


def serve_scheduler(settings: Settings, worker: Worker) -> None:
    """Bring the workers together and return when the last of them is gone."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device(settings.device_target)  # MindSpore makes it the CPU: a scheduler holds no NPU
    comm.init()


def open_session(settings: Settings, worker: Worker) -> Session:
    """Join the other workers; alone, there is nothing to join."""
    strategy = strategy_of(settings, worker)
    _start(settings, worker)
    if worker.world_size > 1:
        comm.init()
    place = strategy.place(worker.rank)
    return Session(strategy, place, start_groups(strategy, place))


def open_alone(
    device: DeviceName | None = None, *, choose: Callable[[DeviceName | None], DeviceName] = use_device
) -> Session:
    """The one process of a network that is no job's, on the device that is asked for, or set already.

    Raises ModelError, see `use_device`.
    """
    # What a script has said of the compiler stays; of itself MindSpore takes O2, a graph of GE's, on a 910A.
    set_context(choose(device), None if ms.context.get_jit_config() else Settings(task="predict").level)
    strategy = Strategy()
    place = strategy.place(0)
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


FRAME = 4096  # bytes that travel at once: one size, one compiled collective


class GroupBroadcast:
    """`chat_server.Broadcast` over a group of ranks; every rank must make the same calls in the same order.

    An all-reduce in which all but one give zeros: the CPU has no other collective in sub-groups, and a
    float32 holds a byte exactly.
    """

    def __init__(self, rank: int, group: str) -> None:
        self._rank = rank
        self._operator = ops.AllReduce(group=group)

    def text(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        data = np.frombuffer(text.encode() if self._rank == 0 else b"", np.uint8)
        length = int(self._all_reduce(np.array([len(data)], np.float32))[0])
        received = b""
        for start in range(0, length, FRAME):
            frame = np.zeros(FRAME, np.float32)
            part = data[start : start + FRAME]
            frame[: len(part)] = part
            received += self._all_reduce(frame).astype(np.uint8).tobytes()
        return received[:length].decode()

    def flag(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return bool(self._all_reduce(np.array([flag], np.float32))[0] > 0)

    def _all_reduce(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._operator(Tensor(values)).asnumpy())
