"""Activations and gradients on their way between neighbouring pipeline stages.

A receive whose sender does not come never returns, not even when that process has died (MindSpore's CPU
communicator), and a blocked one cannot be interrupted. So a second thread watches the time.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mindspore as ms
import mindspore.communication as comm
from mindspore import ops
from mindspore.mint import distributed

from model.device import current_device
from model.errors import TrainingError
from model.parallel import make_group

__all__ = ["P2P_GROUP", "Link", "open_link"]

# `send` and `recv` look this group up by name on every device; on Ascend it is the world's own name.
P2P_GROUP = "hccl_world_group"
# The first step's waits hold the compilation of the neighbours' graphs.
FIRST_STEP = 10


def open_link(place_name: str, limit: float) -> Link:
    """The link of this rank, after `init()`; every rank of the world must open one."""
    if comm.GlobalComm.WORLD_COMM_GROUP != P2P_GROUP:
        make_group(P2P_GROUP, range(comm.get_group_size()))
    return Link(place_name, limit)


class Link:
    """Sends and receives, each ended with the process when it takes longer than `limit` seconds."""

    def __init__(self, place_name: str, limit: float, give_up: Callable[[str], None] | None = None) -> None:
        self.place_name, self.limit = place_name, limit
        self.give_up = give_up or _end_process
        self.factor = FIRST_STEP

    def settle(self) -> None:
        """After the first step: all graphs are compiled, so waits are those of the schedule."""
        self.factor = 1

    def send(self, tensor: Any, rank: int, what: str) -> None:
        with self.watch(f"sending {what} to rank {rank}"):
            distributed.send(tensor, dst=rank, group=P2P_GROUP)

    def receive(self, shape: tuple[int, ...], dtype: Any, rank: int, what: str) -> Any:
        """Wait for a tensor of this shape and type from `rank`."""
        buffer = ops.zeros(shape, dtype)
        with self.watch(f"waiting for {what} from rank {rank}"):
            distributed.recv(buffer, src=rank, group=P2P_GROUP)
            if not current_device().is_cpu:  # a device has a queue: it would wait elsewhere
                ms.runtime.synchronize()
        return buffer

    @contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """Give up, and say why, unless the block ends in time."""
        limit = self.limit * self.factor
        timer = threading.Timer(limit, self.give_up, [f"{self.place_name}: {limit:g} s {what} in vain"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _end_process(message: str) -> None:
    """The main thread is blocked for good: say why and end, which ends the whole run."""
    error = TrainingError(message, remedy="look at that rank's log; parallel.link_timeout if it is only slow")
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()
    os._exit(error.exit_code)
