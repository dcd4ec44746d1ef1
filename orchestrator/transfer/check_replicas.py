"""The comparison of replicas: the ranks that hold the same slice must hold the same bytes of it.

Each host sums up what its ranks have; no bytes are moved. All of them are read, once for each replica, which
is why a collection does so only when it is asked to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from orchestrator.checkpoint.assemble import Assembled, TensorSlice
from orchestrator.checkpoint.copy_options import SEGMENT
from orchestrator.checkpoint.copy_plan import Copy, Segment, whole_region
from orchestrator.checkpoint.host_files import HostFiles
from orchestrator.core.errors import CheckpointError

__all__ = ["odd_ones", "require_equal_replicas"]

_MOST_AT_ONCE = 64
_MOST_NAMED = 3


def require_equal_replicas(
    source: HostFiles,
    whole: Assembled,
    ask: Callable[[Sequence[str], Callable[[str], list[int]]], Mapping[str, list[int]]],
) -> None:
    """Compare every slice that several ranks have; `ask` has all hosts answer at once.

    CheckpointError: replicas differ, with the ranks that are alone with their bytes.
    """
    segments: dict[str, list[Segment]] = {}
    for number, tensor in enumerate(whole.tensors):
        for piece in tensor.slices if tensor.spec.dtype != "str" else ():
            for segment in _segments(number, tensor.spec.name, piece):
                segments.setdefault(segment.copy.host, []).append(segment)

    def sums_of(host: str) -> list[int]:
        own = segments[host]
        starts = range(0, len(own), _MOST_AT_ONCE)
        return [value for at in starts for value in source.sums(host, own[at : at + _MOST_AT_ONCE])]

    answers = ask(list(segments), sums_of)
    found: dict[tuple[int, tuple[tuple[int, int], ...], int], dict[int, int]] = {}
    for host, sums in answers.items():
        for segment, value in zip(segments[host], sums, strict=True):
            key = segment.number, segment.copy.region, segment.start
            found.setdefault(key, {})[segment.copy.rank] = value
    wrong: dict[str, str] = {}
    for (number, _, _), sums_by_rank in found.items():
        if len(set(sums_by_rank.values())) > 1:
            wrong.setdefault(whole.tensors[number].spec.name, odd_ones(sums_by_rank))
    if wrong:
        shown = "; ".join(f"{name}: {what}" for name, what in list(wrong.items())[:_MOST_NAMED])
        more = f" and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        raise CheckpointError(
            f"replicas differ: {shown}{more}",
            remedy="take the damaged shards away, or another step with --step",
        )


def _segments(number: int, name: str, piece: TensorSlice) -> Iterator[Segment]:
    if len(piece.holders) < 2:
        return
    for shard in piece.holders:
        stored = shard.tensors[name]
        path, part = stored.path or shard.path, whole_region(stored.spec)
        copy = Copy(number, piece.region, shard.rank, shard.host, path, stored, part)
        for start in range(0, copy.nbytes, SEGMENT):
            yield Segment(number, copy, start, min(SEGMENT, copy.nbytes - start))


def odd_ones(sums: Mapping[int, int]) -> str:
    """Which ranks are alone with what they hold, of the sums by rank."""
    counts = Counter(sums.values()).most_common()
    if len(counts) > 1 and counts[0][1] == counts[1][1]:
        return f"ranks {', '.join(map(str, sums))} do not hold the same bytes of one slice"
    odd = [rank for rank, value in sums.items() if value != counts[0][0]]
    return f"rank {', '.join(map(str, odd))} does not hold the bytes of its {counts[0][1]} replicas"
