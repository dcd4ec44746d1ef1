"""Verifying a collected checkpoint: its bytes against the checksums in the manifest beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.checkpoint.collection_manifest import manifest_path
from orchestrator.checkpoint.copy_engine import crc32
from orchestrator.checkpoint.cut.own_names import under_own_names
from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.host_files import MappedFiles
from orchestrator.checkpoint.open_checkpoint import open_checkpoint
from orchestrator.checkpoint.output_layout import Destination, Interleaved
from orchestrator.checkpoint.shard_index import Shard, StoredTensor
from orchestrator.checkpoint.spans import locate
from orchestrator.core.codec import DecodeError, from_json, parse
from orchestrator.core.errors import CheckpointError
from orchestrator.core.safe_open import read_safely
from orchestrator.formats.ckpt_index import ITEM_SIZES

__all__ = ["CollectedCheck", "is_collected"]

_LONGEST = 1 << 28


@dataclass(frozen=True, slots=True)
class _Part:
    """A region of a tensor, whose it was, and the crc32 of each segment of it as it was written."""

    region: Region
    rank: int
    crc32: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor is in a folder of files, and in which form."""

    file: str
    spans: tuple[tuple[int, int], ...]
    transposed: bool = False
    interleaved: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[_Part, ...]
    stored: str = ""
    place: _Place | None = None


@dataclass(frozen=True, slots=True)
class _Manifest:
    source: str
    epoch: int
    step: int
    files: Mapping[str, int]
    segment_bytes: int
    tensors: Mapping[str, _Tensor] = field(default_factory=dict)


def is_collected(path: Path) -> bool:
    """Whether a manifest lies beside what is there."""
    return path.exists() and manifest_path(path).is_file()


class CollectedCheck:
    """A collected file, or folder, and its manifest. CheckpointError: one of them cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._manifest = _read(manifest_path(path))
        self.label = f"step {self._manifest.step} of {self._manifest.source or 'a run'}"

    def files(self) -> list[Path]:
        """Those that the manifest tells of."""
        return [self._path / name for name in self._manifest.files]

    def wrong(self) -> Iterator[tuple[Path, str]]:
        """Everything that is not as it was collected: the file, and what is wrong with it."""
        sizes = list(zip(self.files(), self._manifest.files.values(), strict=True))
        for file, size in sizes:
            if not file.is_file():
                yield file, "is not there, though the manifest tells of it"
            elif file.stat().st_size != size:
                yield file, f"has {file.stat().st_size:,} bytes, {size:,} were collected"
        if any(not file.is_file() or file.stat().st_size != size for file, size in sizes):
            return
        held = open_checkpoint(self._path) if self._path.is_file() else None
        tensors = self._manifest.tensors
        for name in () if held is None else held.tensors.keys() - tensors.keys():
            yield self._path, f"{name} was not collected"
        with MappedFiles() as files:
            for name, tensor in tensors.items():
                if what := self._wrong_tensor(files, name, tensor, held):
                    yield self._path, f"{name} {what}"

    @property
    def is_comparable(self) -> bool:
        """False for a folder whose manifest, of an older version, does not tell where its tensors are."""
        return self._path.is_file() or all(tensor.place for tensor in self._manifest.tensors.values())

    def _wrong_tensor(self, files: MappedFiles, name: str, tensor: _Tensor, held: Shard | None) -> str:
        if held is not None:
            stored = held.tensors.get(name)
            if stored is None:
                return "is not there, though it was collected"
            if stored.spec.dtype != tensor.dtype or stored.spec.dims != tensor.shape:
                return f"is {stored.spec.dtype} {list(stored.spec.dims)}, not as it was collected"
            return self._compare(files, str(self._path), stored, tensor)
        if tensor.place is None:
            return ""
        stored = StoredTensor(Spec(name, tensor.shape, tensor.dtype), tensor.place.spans)
        return self._compare(files, str(self._path / tensor.place.file), stored, tensor)

    def _compare(self, files: MappedFiles, file: str, stored: StoredTensor, tensor: _Tensor) -> str:
        try:
            for part in tensor.parts:
                if not self._is_whole(files, file, stored, tensor, part):
                    return f"is damaged: bytes of what rank {part.rank} gave are not as they were collected"
        except (ValueError, IndexError, TypeError, ZeroDivisionError):
            # What the manifest says cannot be: a region outside of the tensor, too many checksums.
            raise _damaged(manifest_path(self._path), stored.spec.name) from None
        return ""

    def _is_whole(
        self, files: MappedFiles, file: str, stored: StoredTensor, tensor: _Tensor, part: _Part
    ) -> bool:
        place, source = tensor.place, self._source(stored, tensor, part)
        fused = Interleaved(*place.interleaved) if place and place.interleaved else None
        to = Destination(source, tensor.dtype, 0, stored.spans, bool(place and place.transposed), fused)
        step, total = self._step(to.unit(part.region)), _nbytes(source, part)
        for start, wanted in zip(range(0, total, step), part.crc32, strict=True):
            spans = to.written(part.region, start, min(step, total - start))
            located = [one for span in spans for one in locate(span, stored.spans)]
            if f"{crc32(files.joined(file, stored, located)):08x}" != wanted:
                return False
        return True

    def _step(self, unit: int) -> int:
        """The bytes of a segment, as the collection cut them."""
        size = self._manifest.segment_bytes
        return max(unit, size - size % unit)

    def _source(self, stored: StoredTensor, tensor: _Tensor, part: _Part) -> Spec:
        """The tensor as the shards had it; an older manifest tells its type by the number of segments."""
        spec = replace(stored.spec, dims=tensor.shape)
        if tensor.stored or tensor.place:
            return replace(spec, dtype=tensor.stored or tensor.dtype)
        for dtype in (spec.dtype, "Float16", "Float32", "Float64"):
            source = replace(spec, dtype=dtype)
            if -(-_nbytes(source, part) // self._step(source.item_size)) == len(part.crc32):
                return source
        raise _damaged(manifest_path(self._path), spec.name)


def _nbytes(source: Spec, part: _Part) -> int:
    if source.dtype == "str":
        return source.nbytes
    return math.prod(stop - start for start, stop in part.region) * source.item_size


def _read(path: Path) -> _Manifest:
    try:
        manifest = from_json(_Manifest, parse(read_safely(path, path.parent, _LONGEST)))
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except DecodeError as error:
        raise CheckpointError(f"is no manifest of a collection: {error}", where=str(path)) from error
    for name, tensor in manifest.tensors.items():
        if not all(_is_within(part.region, tensor.shape) for part in tensor.parts) or not (
            tensor.dtype in ITEM_SIZES and tensor.stored in ("", *ITEM_SIZES)
        ):
            raise _damaged(path, name)
    # As the file is read: an older version wrote names with a prefix.
    return replace(manifest, tensors=under_own_names(manifest.tensors))


def _is_within(region: Region, shape: Sequence[int]) -> bool:
    return len(region) == len(shape) and all(
        0 <= start <= stop <= size for (start, stop), size in zip(region, shape, strict=True)
    )


def _damaged(path: Path, name: str) -> CheckpointError:
    return CheckpointError(f"is damaged: the entry of {name}", where=str(path))
