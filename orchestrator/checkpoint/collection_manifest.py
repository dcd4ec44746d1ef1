"""The manifest beside a collected checkpoint: where every part of it came from, with a checksum for each."""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.checkpoint.atomic import replacing
from orchestrator.checkpoint.copy_plan import CopyPlan, Segment
from orchestrator.checkpoint.journal import Header, Journal
from orchestrator.checkpoint.output_layout import Destination, OutputLayout
from orchestrator.core.codec import DecodeError, from_json, parse
from orchestrator.core.safe_open import open_safely

__all__ = ["Earlier", "manifest_beside", "manifest_path", "manifest_text", "read_earlier"]

# What is needed to judge an output comes before the tensors, which are many megabytes for a large model.
_HEAD = 1 << 24
_TENSORS = b',"tensors":{'


@dataclass(frozen=True)
class Earlier:
    """What the manifest says of a file that was collected: the run, the step, the files put beside it.

    `files` are sizes by name ("" is the output itself), `beside` SHA-256 by path from the output's folder.
    """

    source: str
    step: int
    files: Mapping[str, int]
    beside: Mapping[str, str] = field(default_factory=dict)

    def fits(self, output: Path) -> bool:
        """Whether what is at `output` can be what the manifest tells of."""
        status = os.lstat(output)
        if "" not in self.files:
            return stat.S_ISDIR(status.st_mode)
        return stat.S_ISREG(status.st_mode) and status.st_size == self.files[""]


def read_earlier(output: Path) -> Earlier | None:
    """What the manifest beside `output` says; None where there is none, or it is none of ours."""
    path = manifest_path(output)
    try:
        with os.fdopen(open_safely(path, path.parent), "rb") as file:
            head, found, _ = file.read(_HEAD).partition(_TENSORS)
        return from_json(Earlier, parse(head + b"}")) if found else None
    except (OSError, DecodeError):
        return None


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
    *,
    beside: Mapping[str, str] | None = None,
    passed_over: Mapping[str, str] | None = None,
    left_aside: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Source, step, hosts, and for each tensor its parts: region, rank, crc32 of each segment as written.

    Before them the files put `beside` the output; newer steps that were `passed_over` and files `left_aside`,
    each with the reason.
    In parts, a tensor each: all of a large model's JSON at once is many megabytes.
    """
    head = {
        "source": header.source,
        "epoch": header.epoch,
        "step": header.step,
        "passed_over": dict(passed_over or {}),
        "left_aside": dict(left_aside or {}),
        "beside": dict(beside or {}),
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
                **_form(destination, layout),
                "parts": [_part(list(of_one), journal) for _, of_one in parts],
            },
        )


def _form(destination: Destination, layout: OutputLayout) -> dict[str, Any]:
    """The type that the shards have, where it is another; in a folder also the place of the tensor."""
    form: dict[str, Any] = {}
    if destination.source.dtype != destination.dtype:
        form["stored"] = destination.source.dtype
    if layout.is_folder:
        fused = destination.interleaved
        form["place"] = {
            "file": layout.files[destination.file][0],
            "spans": destination.spans,
            "transposed": destination.transposed,
            "interleaved": None if fused is None else (fused.heads, fused.part, fused.parts),
        }
    return form


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
def manifest_beside(output: Path, text: Iterator[str], *, durable: bool = True) -> Iterator[None]:
    """Write `<name>.manifest.json`, which appears when the block, which puts the output in place, ends well.

    A disk that has no room for it is found out before the output is there. Where the output need not be
    `durable`, the manifest need not either: to wait for it is to wait for what was written before.
    """
    with replacing(manifest_path(output), durable=durable) as file:
        for part in text:
            file.write(part.encode())
        file.flush()
        yield
