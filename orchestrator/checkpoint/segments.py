"""A plan's slices cut into segments: what is read, checked, written and noted as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.checkpoint.copy_plan import CollectPlan, Read
from orchestrator.checkpoint.journal import Key
from orchestrator.checkpoint.shard_source import Ranges
from orchestrator.checkpoint.target import Target

__all__ = ["SEGMENT", "Segment", "batches", "cut_segments"]

# Large enough for a disk and a wire, small enough that a few per stream are no memory to speak of.
SEGMENT = 4 << 20
# What one request to a host asks for at most.
BATCH = 64 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes `start` to `start + nbytes` of the slice that read number `number` of a plan takes."""

    number: int
    read: Read
    start: int
    nbytes: int

    @property
    def key(self) -> Key:
        return self.number, self.start

    @property
    def ranges(self) -> Ranges:
        """Where its bytes lie in the shard's file."""
        ranges = []
        start, stop = self.start, self.start + self.nbytes
        for offset, length in self.read.pieces:
            first, last = max(start, 0), min(stop, length)
            if first < last:
                ranges.append((offset + first, last - first))
            start, stop = start - length, stop - length
        return ranges


def cut_segments(plan: CollectPlan, targets: Sequence[Target], size: int = SEGMENT) -> list[Segment]:
    """Every slice as segments of about `size` bytes, in the order of the plan."""
    return [
        Segment(number, read, start, min(step, read.nbytes - start))
        for number, read in enumerate(plan.reads)
        for step in [_step(targets[read.tensor], read, size)]
        for start in range(0, read.nbytes, step)
    ]


def _step(target: Target, read: Read, size: int) -> int:
    unit = target.unit(read.region)
    return max(unit, size - size % unit)


def batches(
    segments: Sequence[Segment], targets: Sequence[Target], limit: int = BATCH
) -> Iterator[list[Segment]]:
    """Each host's segments in the order of the output, at most `limit` bytes at a time.

    So the slices of a tensor, which alternate in its rows, come at about the same time from all files and
    hosts, and the output grows from its beginning: no page of it is written to the disk again and again.
    """

    def place(segment: Segment) -> tuple[int, int, int]:
        target = targets[segment.read.tensor]
        return target.file, target.places[0][0] if target.places else 0, segment.start

    hosts: dict[str, list[Segment]] = {}
    for segment in sorted(segments, key=place):
        hosts.setdefault(segment.read.host, []).append(segment)
    for having in hosts.values():
        batch: list[Segment] = []
        nbytes = 0
        for segment in having:
            if batch and nbytes + segment.nbytes > limit:
                yield batch
                batch, nbytes = [], 0
            batch.append(segment)
            nbytes += segment.nbytes
        yield batch
