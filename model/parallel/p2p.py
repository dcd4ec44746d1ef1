"""Point-to-point messages: activations and gradients on their way between neighbouring pipeline stages.

On a CPU a send and a receive are calls that end when the message is through. A device has queues: there both
are only put into the queue of their group, which works them off in their order and beside the queue that
computes; a handle makes the latter wait for a message, not the process (MindSpore 2.10, `CommHandle.wait`
and its `comm_common.cc`: an event on the stream of the group, waited for by the current stream).

A message whose other side does not come never ends, not even when that process has died (MindSpore's CPU
communicator), and a blocked call cannot be interrupted. So a second thread watches the time.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import mindspore as ms
import mindspore.communication as comm
from mindspore import Tensor, ops
from mindspore.mint import distributed

from model.devices.device import current_device
from model.errors import TrainingError
from model.parallel.mesh import make_group

__all__ = ["P2P_GROUP", "Arrived", "BlockingLink", "Link", "QueuedLink", "Queues", "Watch", "open_link"]

# `send` and `recv` look this group up by name on every device; on Ascend it is the world's own name.
P2P_GROUP = "hccl_world_group"
# The wait for the others' compilation may take this many times what a wait for a message may take.
COMPILATION = 10
# Messages that a device may have received without the process having waited for it: with more of them the
# process is less often late with new work, with fewer a message that does not come is seen sooner.
AHEAD = 4


def open_link(place_name: str, limit: float) -> Link:
    """The link of this rank, after `init()`; every rank of the world must open one."""
    if comm.GlobalComm.WORLD_COMM_GROUP != P2P_GROUP:
        make_group(P2P_GROUP, range(comm.get_group_size()))
    watch = Watch(place_name, limit)
    return BlockingLink(watch) if current_device().is_cpu else QueuedLink(watch)


class Incoming(Protocol):
    """A message that was asked for."""

    def take(self) -> Any:
        """The tensor; what is computed from it afterwards waits for it."""
        ...


class Link(Protocol):
    """One rank's messages with the stages before and behind it."""

    # Whether to ask for a message costs nothing before it is there, so that it is done as early as possible.
    receives_early: bool
    watch: Watch

    def send(self, tensor: Any, rank: int, what: str) -> None: ...

    def receive(self, shape: tuple[int, ...], dtype: Any, rank: int, what: str) -> Incoming:
        """Ask for a tensor of this shape and type from `rank`."""
        ...

    def finish(self) -> None:
        """Wait until all messages are through, at the end of a step."""
        ...


class Watch:
    """Ends the process, and says why, when something takes longer than `limit` seconds."""

    def __init__(self, place_name: str, limit: float, give_up: Callable[[str], None] | None = None) -> None:
        self.place_name, self.limit = place_name, limit
        self.give_up = give_up or _end_process
        self.timer: threading.Timer | None = None

    def begin(self, what: str, times: int = 1) -> None:
        """From now on `what` has `times` the limit; what was watched before is over."""
        self.end()
        limit = self.limit * times
        self.timer = threading.Timer(limit, self.give_up, [f"{self.place_name}: {limit:g} s {what} in vain"])
        self.timer.daemon = True
        self.timer.start()

    def end(self) -> None:
        if self.timer:
            self.timer.cancel()
        self.timer = None

    @contextmanager
    def over(self, what: str, times: int = 1) -> Iterator[None]:
        """Give up unless the block ends in time."""
        self.begin(what, times)
        try:
            yield
        finally:
            self.end()

    def over_compilation(self) -> Any:
        """Give up unless the other stages have compiled what they run, which is the end of the block.

        They do so at the same time as this one: what is waited for is how much longer it takes them.
        """
        return self.over("waiting for the other stages to compile", COMPILATION)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message that is there."""

    tensor: Any

    def take(self) -> Any:
        return self.tensor


class BlockingLink:
    """Each call ends when its message is through."""

    receives_early = False

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def send(self, tensor: Any, rank: int, what: str) -> None:
        with self.watch.over(f"sending {what} to rank {rank}"):
            distributed.send(tensor, dst=rank, group=P2P_GROUP)

    def receive(self, shape: tuple[int, ...], dtype: Any, rank: int, what: str) -> Arrived:
        buffer = ops.zeros(shape, dtype)
        with self.watch.over(f"waiting for {what} from rank {rank}"):
            distributed.recv(buffer, src=rank, group=P2P_GROUP)
        return Arrived(buffer)

    def finish(self) -> None:
        pass


class Queues:
    """The queues of a device, as MindSpore gives them.

    Its streams and events are not used: once a process has asked for one, every graph begins with a wait for
    the queues of all groups (`MSBackendBase::WaitMultiStream`), and no message travels while it computes.
    """

    def send(self, tensor: Any, rank: int) -> Any:
        """Put it into the queue of messages; a handle."""
        return distributed.isend(tensor, dst=rank, group=P2P_GROUP)

    def receive(self, shape: tuple[int, ...], dtype: Any, rank: int) -> tuple[Any, Any]:
        """Where it will be, and a handle."""
        buffer = ops.zeros(shape, dtype)
        return buffer, distributed.irecv(buffer, src=rank, group=P2P_GROUP)

    def drain(self) -> None:
        """Wait for all that is to be computed so far.

        By reading a number that is computed after it: unlike `runtime.synchronize` this leaves messages that
        nothing has waited for on their way, and lets the thread of the watch run.
        """
        one = Tensor([1.0], ms.float32)
        (one + one).asnumpy()  # a sum, which is no constant


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """In the queue of messages, and not yet waited for; the tensor is kept for as long."""

    link: QueuedLink
    what: str
    handle: Any
    tensor: Any
    is_sent: bool

    def take(self) -> Any:
        self.link.wait_for(self)
        return self.tensor


class QueuedLink:
    """Messages are put into a queue, and what computes waits for them, not the process.

    The queue of messages is one for both directions and keeps their order, so a wait for one is a wait for
    all before it. The process is ahead of the device by at most `AHEAD` received messages; from its first
    message to the end of the step it must always get to the next one in time, as it does not where a message
    does not come: the queues are then full, or it waits for the device.
    """

    receives_early = True

    def __init__(self, watch: Watch, queues: Queues | None = None) -> None:
        self.watch, self.queues = watch, queues or Queues()
        self.pending: deque[Message] = deque()  # nothing waits for them yet
        self.awaited: list[str] = []  # the device waits for them, and may not be through with it
        self.received = 0  # of these

    def send(self, tensor: Any, rank: int, what: str) -> None:
        self._go_on(f"sending {what} to rank {rank}")
        sent = [message for message in self.pending if message.is_sent]
        if sent:  # so at most one is kept; it has left by now, or this one could not leave either
            self._wait_up_to(sent[-1])
        self._put(f"sending {what} to rank {rank}", self.queues.send(tensor, rank), tensor, True)

    def receive(self, shape: tuple[int, ...], dtype: Any, rank: int, what: str) -> Message:
        self._go_on(f"waiting for {what} from rank {rank}")
        buffer, handle = self.queues.receive(shape, dtype, rank)
        return self._put(f"waiting for {what} from rank {rank}", handle, buffer, False)

    def wait_for(self, message: Message) -> None:
        """Let the device wait for it before it computes on."""
        if self.received >= AHEAD:
            self._drain()
        self._go_on(message.what)
        self._wait_up_to(message)

    def finish(self) -> None:
        if self.pending:
            self._wait_up_to(self.pending[-1])
        self._drain()
        self.watch.end()

    def _put(self, what: str, handle: Any, tensor: Any, is_sent: bool) -> Message:
        message = Message(self, what, handle, tensor, is_sent)
        self.pending.append(message)
        return message

    def _wait_up_to(self, last: Message) -> None:
        if last not in self.pending:
            return  # it was waited for before
        while self.pending:
            message = self.pending.popleft()
            message.handle.wait()
            self.awaited.append(message.what)
            self.received += not message.is_sent
            if message is last:
                return

    def _drain(self) -> None:
        self._go_on()
        self.queues.drain()
        self.awaited.clear()
        self.received = 0

    def _go_on(self, *what: str) -> None:
        """The process has got so far: it has the limit again for what comes next."""
        self.watch.begin(", or ".join(dict.fromkeys((*self.awaited, *what))) or "computing")


def _end_process(message: str) -> None:
    """The main thread is blocked for good: say why and end, which ends the whole run."""
    remedy = "look at the log of what is waited for; raise parallel.link_timeout if it is only slow"
    error = TrainingError(message, remedy=remedy)
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()
    os._exit(error.exit_code)
