"""The note beside a collected checkpoint: where every part of it came from, with a checksum for each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.atomic import replacing
from orchestrator.checkpoint.copy_plan import CollectPlan
from orchestrator.checkpoint.journal import Header, Journal
from orchestrator.checkpoint.segments import SEGMENT, Segment
from orchestrator.checkpoint.target import OutputLayout

__all__ = ["Manifest", "manifest_beside", "manifest_of", "manifest_path"]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the file says: an object of `head` and, as its last key, `tensors`."""

    head: Mapping[str, Any]
    tensors: Iterator[tuple[str, Mapping[str, Any]]]

    def text(self) -> Iterator[str]:
        """The JSON in parts, a tensor each: all of a large model's at once is many megabytes."""
        yield _json(self.head)[:-1] + ',"tensors":{'
        separator = ""
        for name, tensor in self.tensors:
            yield f"{separator}{_json(name)}:{_json(tensor)}"
            separator = ","
        yield "}}\n"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def manifest_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.manifest.json")


def manifest_of(
    header: Header, plan: CollectPlan, layout: OutputLayout, segments: Sequence[Segment], journal: Journal
) -> Manifest:
    """Source, step, hosts, and for each tensor its parts: region, rank, crc32 of each segment as written."""
    head = {
        "source": header.source,
        "epoch": header.epoch,
        "step": header.step,
        "bytes_per_host": plan.bytes_per_host,
        "shards": _shards(header, plan),
        "files": {name: part.size for name, part in layout.files},
        "left_out": dict(plan.skipped),
        "segment_bytes": SEGMENT,
    }
    return Manifest(head, _tensors(layout, segments, journal))


def _tensors(
    layout: OutputLayout, segments: Sequence[Segment], journal: Journal
) -> Iterator[tuple[str, dict[str, Any]]]:
    of_tensor: dict[int, list[Segment]] = {}
    for segment in segments:
        of_tensor.setdefault(segment.read.tensor, []).append(segment)
    for number, target in enumerate(layout.targets):
        parts = itertools.groupby(of_tensor.get(number, ()), lambda segment: segment.number)
        yield (
            target.source.name,
            {
                "shape": target.source.dims,
                "dtype": target.dtype,
                "parts": [_part(list(of_one), journal) for _, of_one in parts],
            },
        )


def _part(segments: Sequence[Segment], journal: Journal) -> dict[str, Any]:
    done = [journal.done[segment.key] for segment in segments]
    return {
        "region": segments[0].read.region,
        "rank": done[0].rank,
        "crc32": [f"{each.crc:08x}" for each in done],
    }


def _shards(header: Header, plan: CollectPlan) -> list[dict[str, Any]]:
    used = {read.rank: read for read in plan.reads}
    return [
        {"rank": rank, "host": used[rank].host, "path": used[rank].path, **_stamp(header.files.get(rank, ()))}
        for rank in sorted(used)
    ]


def _stamp(identity: Sequence[int]) -> dict[str, int]:
    return dict(zip(("bytes", "mtime_ns"), identity, strict=False))


@contextmanager
def manifest_beside(output: Path, manifest: Manifest) -> Iterator[None]:
    """Write `<name>.manifest.json`, which appears when the block, which puts the output in place, ends well.

    A disk that has no room for it is found out before the output is there.
    """
    with replacing(manifest_path(output)) as file:
        for part in manifest.text():
            file.write(part.encode())
        file.flush()
        yield
