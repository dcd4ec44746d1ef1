"""Several ranks' devices in one process: two queues each, as HCCL and MindSpore work them off.

What computes waits for a message only where it is told to. The queue of messages is one for all neighbours;
it begins with one when the one before is through, and when all is computed that was asked for before it. A
send ends when it is received: the strictest that HCCL may be.

The program of each rank runs in a thread of its own, one at a time.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Deadlock(Exception):
    """Nothing can go on any more."""


class Tensor:
    """Something with a content, which is in memory as long as anything refers to it."""

    def __init__(self, content: Any = None) -> None:
        self.content = content


@dataclass(eq=False)
class Handle:
    """One message in the queue of its rank."""

    device: Device
    other: int
    is_send: bool
    tensor: weakref.ref[Tensor]
    after: int  # so much has to be computed before
    is_through: bool = False
    waits: int = 0

    def wait(self) -> None:
        self.waits += 1
        tensor = self.tensor()  # from here on its memory is used again behind the wait only
        assert tensor is not None
        self.device.to_compute.append((lambda: self.is_through, lambda: tensor))


class Device:
    """The queues of one rank; its methods are those of `model.parallel.p2p.Queues`, and `compute`."""

    def __init__(self, world: World, rank: int) -> None:
        self.world, self.rank = world, rank
        self.to_compute: deque[tuple[Callable[[], bool], Callable[[], Any]]] = deque()
        self.asked = self.computed = 0
        self.messages: deque[Handle] = deque()
        self.all_messages: list[Handle] = []

    def send(self, tensor: Tensor, rank: int) -> Handle:
        return self._message(rank, True, tensor)

    def receive(self, shape: Any, dtype: Any, rank: int) -> tuple[Tensor, Handle]:
        tensor = Tensor()
        return tensor, self._message(rank, False, tensor)

    def drain(self) -> None:
        self.world.block_until(lambda: not self.to_compute)

    def compute(self, work: Callable[[], Any]) -> None:
        """Put `work` behind what is to be computed."""
        if self.world.graphs_wait:
            for handle in self.messages:
                self.to_compute.append((lambda handle=handle: handle.is_through, lambda: None))

        def done() -> None:
            work()
            self.computed += 1

        self.asked += 1
        self.to_compute.append((lambda: True, done))

    def _message(self, rank: int, is_send: bool, tensor: Tensor) -> Handle:
        handle = Handle(self, rank, is_send, weakref.ref(tensor), self.asked)
        self.messages.append(handle)
        self.all_messages.append(handle)
        return handle

    def next_message(self) -> Handle | None:
        head = self.messages[0] if self.messages else None
        return head if head is not None and self.computed >= head.after else None


@dataclass(eq=False)
class World:
    """All ranks; `graphs_wait` is what MindSpore does where a process has asked for a stream."""

    size: int
    graphs_wait: bool = False
    turn: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.devices = [Device(self, rank) for rank in range(self.size)]
        self.blocked: dict[int, Callable[[], bool]] = {}  # threads and what they wait for
        self.alive = 0
        self.errors: list[BaseException] = []

    def run(self, programs: list[Callable[[], None]]) -> None:
        """All to their end; raises what one of them raised."""
        self.alive = len(programs)
        threads = [threading.Thread(target=self._run, args=[program]) for program in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _run(self, program: Callable[[], None]) -> None:
        with self.turn:
            try:
                program()
            except BaseException as error:
                self.errors.append(error)
            self.alive -= 1
            self.turn.notify_all()

    def block_until(self, done: Callable[[], bool]) -> None:
        me = threading.get_ident()
        self.blocked[me] = done
        try:
            while True:
                self._work()
                if done():
                    return
                if self.errors:
                    raise self.errors[0]
                if len(self.blocked) == self.alive and not any(other() for other in self.blocked.values()):
                    raise Deadlock
                self.turn.notify_all()
                self.turn.wait()
        finally:
            del self.blocked[me]

    def _work(self) -> None:
        """Work the queues off as far as they go."""
        while any([self._compute(device) or self._exchange(device) for device in self.devices]):
            pass

    def _compute(self, device: Device) -> bool:
        if not device.to_compute or not device.to_compute[0][0]():
            return False
        device.to_compute.popleft()[1]()
        return True

    def _exchange(self, device: Device) -> bool:
        mine = device.next_message()
        if mine is None or not mine.is_send:
            return False
        theirs = self.devices[mine.other].next_message()
        if theirs is None or theirs.is_send or theirs.other != device.rank:
            return False
        source, target = mine.tensor(), theirs.tensor()
        assert source is not None and target is not None, "the tensor of a message was let go"
        target.content = source.content
        for handle in (mine, theirs):
            handle.is_through = True
            handle.device.messages.popleft()
        return True
