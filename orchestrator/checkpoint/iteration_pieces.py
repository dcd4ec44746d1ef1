"""Whole tensors put together from the files of MindFormers' checkpoint 2.0, as its metadata.json says.

    {"state_dict_metadata": {NAME: {"global_shape": [8, 4],
                                    "chunk": [{"global_offset": [0, 0], "local_shape": [4, 4]}, …]}, …},
     "storage_data": {"('NAME', (0, 0))": [{"file_name": "model-0000000-0000002.safetensors"}, …], …}}

Source: mindformers 1.9.0 and 2.1.0, checkpoint/metadata.py. A rank alone writes none: its tensors are whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from orchestrator.checkpoint.assemble import Assembled, AssembledTensor, TensorSlice
from orchestrator.checkpoint.cut.coverage import is_moment, is_weight, why_left_out
from orchestrator.checkpoint.cut.slices import Region
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.shard_index import Shard
from orchestrator.core.errors import CheckpointError

__all__ = ["assemble_iteration"]

_METADATA = "metadata.json"
_Part = tuple[tuple[int, ...], tuple[int, ...]]


def assemble_iteration(
    files: Sequence[Shard], metadata: object | None, *, with_optimizer: bool = False, with_texts: bool = True
) -> Assembled:
    """The tensors of an iteration, from its files, each of which may be listed by several hosts.

    `metadata` is what its JSON file says, None where there is none. CheckpointError: files that do not fit
    it, a part that no file has, or parts that are not the whole of a tensor.
    """
    holders: dict[str, list[Shard]] = {}
    for file in sorted(files, key=lambda each: (each.rank, each.host)):
        for name in file.tensors:
            holders.setdefault(name, []).append(file)
    skipped = {name: reason for file in files for name, reason in file.skipped}
    known = _tables(metadata, "state_dict_metadata") if metadata is not None else {}
    stored = _tables(metadata, "storage_data", list) if metadata is not None else {}
    for name in known:
        if name not in holders and name not in skipped and (with_optimizer or is_weight(name)):
            _refuse(f"{name} is in no file of the iteration")
    tensors = []
    for name, having in holders.items():
        if reason := why_left_out(name, having[0].tensors[name].spec.dtype, with_optimizer, with_texts):
            skipped[name] = reason
        elif name in known:
            tensors.append(_in_parts(name, having, known[name], stored))
        elif metadata is not None and (is_weight(name) or is_moment(name)):
            _refuse(f"it does not say how {name} is cut")
        else:
            tensors.append(_whole(name, having))
    return Assembled(tuple(tensors), tuple(skipped.items()))


def _whole(name: str, having: Sequence[Shard]) -> AssembledTensor:
    spec = having[0].tensors[name].spec
    if {os.path.basename(file.path) for file in having} != {os.path.basename(having[0].path)} and is_weight(
        name
    ):
        _refuse(f"{name} is in two files, and nothing says how it is cut", having[1].path)
    same = tuple(file for file in having if file.tensors[name].spec == spec)
    return AssembledTensor(spec, (TensorSlice(tuple((0, size) for size in spec.dims), same),))


def _in_parts(
    name: str, having: Sequence[Shard], said: Mapping[str, Any], stored: Mapping[str, Any]
) -> AssembledTensor:
    dims = _sizes(said.get("global_shape"), name)
    dtype = having[0].tensors[name].spec.dtype
    chunks = said.get("chunk")
    if not isinstance(chunks, list) or not chunks:
        _refuse(f"it does not say of what parts {name} is made")
    parts: dict[_Part, None] = {}
    for chunk in chunks:
        table = chunk if isinstance(chunk, dict) else {}
        parts[_sizes(table.get("global_offset"), name), _sizes(table.get("local_shape"), name)] = None
    regions = [_region(part, dims, name) for part in parts]
    _require_tiled(name, dims, regions)
    slices = []
    for (offset, shape), region in zip(parts, regions, strict=True):
        places = stored.get(str((name, offset)))
        named = {row.get("file_name") for row in places if isinstance(row, dict)} if places else set()
        fitting = tuple(file for file in having if os.path.basename(file.path) in named)
        if not fitting:
            _refuse(f"no file has the part of {name} at {list(offset)}")
        for file in fitting:
            spec = file.tensors[name].spec
            if (spec.dims, spec.dtype) != (shape, dtype):
                what = f"{name} is {list(spec.dims)} {spec.dtype}, and {_METADATA} says {list(shape)} {dtype}"
                raise CheckpointError(what, where=f"{file.host}: {file.path}")
        slices.append(TensorSlice(region, fitting))
    return AssembledTensor(Spec(name, dims, dtype), tuple(slices))


def _region(part: _Part, dims: tuple[int, ...], name: str) -> Region:
    offset, shape = part
    if not len(offset) == len(shape) == len(dims):
        _refuse(f"a part of {name} has another number of axes")
    return tuple((start, start + size) for start, size in zip(offset, shape, strict=True))


def _require_tiled(name: str, dims: tuple[int, ...], regions: Sequence[Region]) -> None:
    """The parts are a grid over the whole, each once: so every layout cuts."""
    axes = [sorted({region[axis] for region in regions}) for axis in range(len(dims))]
    for axis, spans in enumerate(axes):
        stops = [0, *(stop for _, stop in spans)]
        if [start for start, _ in spans] != stops[:-1] or stops[-1] != dims[axis]:
            _refuse(f"the parts of {name} are not the whole of it on axis {axis}")
    if len(set(regions)) != math.prod(len(spans) for spans in axes):
        _refuse(f"the parts of {name} are not the whole of it")


def _sizes(value: object, name: str) -> tuple[int, ...]:
    if isinstance(value, list) and all(type(each) is int and 0 <= each < 1 << 48 for each in value):
        return tuple(value)
    _refuse(f"the sizes of {name} are none")


def _tables(data: object, key: str, kind: type = dict) -> dict[str, Any]:
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, dict) or not _all_of(found.values(), kind):
        _refuse(f"{key} is missing, or of another form")
    return found


def _all_of(values: Iterable[object], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)


def _refuse(what: str, where: str = _METADATA) -> NoReturn:
    raise CheckpointError(what, where=where, remedy="is it the file that was saved with the others?")
