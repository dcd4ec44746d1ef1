"""The manifest beside a collected checkpoint: where every part of it came from, with a checksum for each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.atomic import replacing
from orchestrator.checkpoint.copy_plan import CopyPlan, Segment
from orchestrator.checkpoint.journal import Header, Journal
from orchestrator.checkpoint.output_layout import OutputLayout

__all__ = ["manifest_beside", "manifest_path", "manifest_text"]


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def manifest_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.manifest.json")


def manifest_text(
    header: Header,
    plan: CopyPlan,
    layout: OutputLayout,
    segments: Sequence[Segment],
    journal: Journal,
    segment_bytes: int,
) -> Iterator[str]:
    """Source, step, hosts, and for each tensor its parts: region, rank, crc32 of each segment as written.

    In parts, a tensor each: all of a large model's JSON at once is many megabytes.
    """
    head = {
        "source": header.source,
        "epoch": header.epoch,
        "step": header.step,
        "bytes_per_host": plan.bytes_per_host,
        "shards": _shards(header, plan),
        "files": {name: part.size for name, part in layout.files},
        "left_out": dict(plan.skipped),
        "segment_bytes": segment_bytes,
    }
    yield _json(head)[:-1] + ',"tensors":{'
    separator = ""
    for name, tensor in _tensors(layout, segments, journal):
        yield f"{separator}{_json(name)}:{_json(tensor)}"
        separator = ","
    yield "}}\n"


def _tensors(
    layout: OutputLayout, segments: Sequence[Segment], journal: Journal
) -> Iterator[tuple[str, dict[str, Any]]]:
    of_tensor: dict[int, list[Segment]] = {}
    for segment in segments:
        of_tensor.setdefault(segment.copy.tensor, []).append(segment)
    for number, destination in enumerate(layout.destinations):
        parts = itertools.groupby(of_tensor.get(number, ()), lambda segment: segment.number)
        yield (
            destination.source.name,
            {
                "shape": destination.source.dims,
                "dtype": destination.dtype,
                "parts": [_part(list(of_one), journal) for _, of_one in parts],
            },
        )


def _part(segments: Sequence[Segment], journal: Journal) -> dict[str, Any]:
    done = [journal.done[segment.key] for segment in segments]
    return {
        "region": segments[0].copy.region,
        "rank": done[0].rank,
        "crc32": [f"{each.crc:08x}" for each in done],
    }


def _shards(header: Header, plan: CopyPlan) -> list[dict[str, Any]]:
    used = {copy.rank: copy for copy in plan.copies}
    return [
        {"rank": rank, "host": used[rank].host, "path": used[rank].path, **_stamp(header.files.get(rank, ()))}
        for rank in sorted(used)
    ]


def _stamp(identity: Sequence[int]) -> dict[str, int]:
    return dict(zip(("bytes", "mtime_ns"), identity, strict=False))


@contextmanager
def manifest_beside(output: Path, text: Iterator[str]) -> Iterator[None]:
    """Write `<name>.manifest.json`, which appears when the block, which puts the output in place, ends well.

    A disk that has no room for it is found out before the output is there.
    """
    with replacing(manifest_path(output)) as file:
        for part in text:
            file.write(part.encode())
        file.flush()
        yield
