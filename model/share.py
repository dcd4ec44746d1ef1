"""What rank 0 is asked, told to the ranks that compute with it."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import ops

__all__ = ["GroupShare"]

FRAME = 4096  # bytes that travel at once: one size, one compiled collective


class GroupShare:
    """`chat_server.Share` over a group of ranks; every rank must make the same calls in the same order.

    An all-reduce in which all but one give zeros: the CPU has no other collective in sub-groups, and a
    float32 holds a byte exactly.
    """

    def __init__(self, rank: int, group: str) -> None:
        self._rank = rank
        self._sum = ops.AllReduce(group=group)

    def text(self, text: str) -> str:
        """Rank 0's text, on every rank."""
        data = np.frombuffer(text.encode() if self._rank == 0 else b"", np.uint8)
        length = int(self._added(np.array([len(data)], np.float32))[0])
        told = b""
        for start in range(0, length, FRAME):
            frame = np.zeros(FRAME, np.float32)
            part = data[start : start + FRAME]
            frame[: len(part)] = part
            told += self._added(frame).astype(np.uint8).tobytes()
        return told[:length].decode()

    def flag(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return bool(self._added(np.array([flag], np.float32))[0] > 0)

    def _added(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(self._sum(ms.Tensor(values)).asnumpy())
