"""The checkpoint of a rank: its shard on disk, and its way back into a network, every name accounted for."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms
import numpy as np

from model.errors import ModelError
from model.parallel.mesh import Place, Strategy, cut, full_shape, layout_of, stored_shape
from model.weights.kept_shards import remove_old, shards_in
from model.weights.state_dict import check_names
from orchestrator.checkpoint.cut.coverage import is_weight
from orchestrator.checkpoint.cut.own_names import under_own_names
from orchestrator.checkpoint.files import strategy_files as strategy_file
from orchestrator.checkpoint.files.tensor_files import read_ckpt, read_safetensors, write_ckpt
from orchestrator.checkpoint.files.tensor_types import Array, Tensor
from orchestrator.core.errors import CheckpointError
from orchestrator.families.registry import table_again

__all__ = [
    "Progress",
    "load_rank",
    "load_rank_weights",
    "load_whole",
    "newest_shard",
    "save_shard",
    "shard_contents",
    "shard_of_step",
    "steps_of",
    "stored_bytes",
    "write_shard",
    "write_strategy_file",
]

logger = logging.getLogger(__name__)

# What is written here; what else may stand beside the weights, `is_weight` knows.
MOMENTS = ("adam_m.", "adam_v.")
COUNTERS = ("epoch_num", "step_num", "global_step")
ANOTHER_LAYOUT = "see model.preset; if it is of another layout, collect it and set checkpoint.distribute"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the training was when the shard was written; `step` counts from the run's start."""

    epoch: int
    step: int
    loss_scale: float | None = None  # where it is dynamic, and for how many steps it has not changed
    good_steps: int = 0


def save_shard(
    folder: Path, prefix: str, rank: int, parameters: Sequence[ms.Parameter], progress: Progress, keep: int
) -> Path:
    """`write_shard` of what the parameters hold now."""
    return write_shard(folder, prefix, rank, shard_contents(parameters, progress), progress, keep)


def write_shard(
    folder: Path,
    prefix: str,
    rank: int,
    contents: Iterable[tuple[str, Tensor]],
    progress: Progress,
    keep: int,
    *,
    unfinished: int = 0,
) -> Path:
    """Write `<folder>/rank_<r>/<prefix>_rank_<r>-<epoch>_<step>.ckpt` with its checksum beside it.

    Of the older ones only the newest stay, `keep` of them in all; `unfinished` as of `remove_old`.
    """
    home = folder / f"rank_{rank}"
    home.mkdir(parents=True, exist_ok=True)
    path = home / f"{prefix}_rank_{rank}-{progress.epoch}_{progress.step}.ckpt"
    write_ckpt(path, contents, with_sum=True)
    remove_old(folder, rank, keep, unfinished=unfinished)
    return path


def stored_bytes(parameters: Sequence[ms.Parameter], strategy: Strategy) -> list[int]:
    """Bytes of each in the shard, without its name."""
    return [
        math.prod(stored_shape(item.name, item.shape, strategy)) * _item_bytes(item.dtype)
        for item in parameters
    ]


def _item_bytes(dtype: ms.Type) -> int:
    return 2 if dtype == ms.bfloat16 else int(ms.dtype_to_nptype(dtype)().itemsize)


def shard_contents(parameters: Iterable[ms.Parameter], progress: Progress) -> Iterator[tuple[str, Tensor]]:
    """What a shard holds, one tensor after the other, each read from the device when it is asked for."""
    for item in parameters:
        yield item.name, _to_tensor(item)
    for name, value in zip(COUNTERS, (progress.epoch, progress.step, progress.step), strict=True):
        yield name, Tensor.of(np.array(value, np.int32))
    if progress.loss_scale is not None:
        yield "loss_scale", Tensor.of(np.array(progress.loss_scale, np.float32))
        yield "current_iterator_step", Tensor.of(np.array(progress.step, np.int32))
        last = progress.step - progress.good_steps
        yield "last_overflow_iterator_step", Tensor.of(np.array(last, np.int32))


def _to_tensor(item: ms.Parameter) -> Tensor:
    if item.dtype == ms.bfloat16:
        bits = item.float().asnumpy().view(np.uint32) >> 16
        return Tensor.of(bits.astype(np.uint16), "BFloat16")
    return Tensor.of(item.asnumpy())


def _to_array(tensor: Tensor) -> Array:
    array = tensor.array()
    if tensor.dtype == "BFloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def steps_of(folder: Path, rank: int) -> list[int]:
    """The steps of which `<folder>/rank_<r>` holds a shard, rising."""
    return [step for step, _ in shards_in(folder / f"rank_{rank}")]


def shard_of_step(folder: Path, rank: int, step: int) -> Path:
    """The shard of one of `steps_of`."""
    return next(path for found, path in shards_in(folder / f"rank_{rank}") if found == step)


def newest_shard(folder: Path, rank: int) -> Path:
    """The shard with the highest step in `<folder>/rank_<r>`; ModelError where there is none."""
    found = shards_in(folder / f"rank_{rank}")
    if not found:
        raise ModelError("holds no shard of this rank", where=str(folder / f"rank_{rank}"))
    return found[-1][1]


def write_strategy_file(
    path: Path, parameters: Sequence[ms.Parameter], strategy: Strategy, place: Place
) -> None:
    """How weights and moments are cut, from the table that cuts them, in MindSpore's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = [item for item in parameters if not item.name.startswith(MOMENTS)]
    shapes = {item.name: full_shape(item.name, item.shape, strategy) for item in weights}
    held = {item.name for item in parameters}
    shapes |= {
        f"{kind}{name}": shape
        for kind in MOMENTS
        for name, shape in shapes.items()
        if f"{kind}{name}" in held
    }
    layouts = {name: layout_of(name, shape, strategy) for name, shape in shapes.items()}
    strategy_file.write_strategy(path, strategy_file.Strategy(stage=place.pp, layouts=layouts))


def load_whole(
    path: Path,
    parameters: Sequence[ms.Parameter],
    strategy: Strategy | None = None,
    place: Place | None = None,
    num_layers: int = 0,
) -> None:
    """Fill the weights from one file of whole tensors, cut for this place. Moments and counters are left.

    A pipeline stage needs `num_layers`, to tell the weights of other stages from names that are none.
    """
    strategy, place = strategy or Strategy(), place or Place(0, 0, 0, 0)
    stored = _without_table_again(_read(path), path)
    known = {n: t for n, t in stored.items() if is_weight(n)}
    if strategy.pipeline_stage > 1:
        known = {n: t for n, t in known.items() if not _of_another_stage(n, strategy, place, num_layers)}
    shapes = {item.name: full_shape(item.name, item.shape, strategy) for item in parameters}
    check_names(shapes, {name: tensor.dims for name, tensor in known.items()}, path)
    for item in parameters:
        whole = _to_array(stored[item.name]).reshape(shapes[item.name])
        _set(item, cut(item.name, whole, strategy, place))


def _of_another_stage(name: str, strategy: Strategy, place: Place, num_layers: int) -> bool:
    try:
        return place.pp not in strategy.network_cut.stages(name, num_layers)
    except CheckpointError:
        return False  # no name of the network: the check of all names says so


def load_rank(
    path: Path,
    weights: Sequence[ms.Parameter],
    moments: Sequence[ms.Parameter],
    strategy: Strategy | None = None,
    place: Place | None = None,
) -> Progress:
    """Fill weights and moments from this rank's own shard; gives the progress that it holds.

    A shard of weights alone, as a whole checkpoint is distributed, is a start from step 0.
    """
    stored = _read(path)
    if not any(name in COUNTERS or name.startswith(MOMENTS) for name in stored):
        load_rank_weights(path, weights, strategy, place)
        return Progress(0, 0)
    _fill(path, [*weights, *moments], stored, MOMENTS, strategy, place)
    missing = [name for name in COUNTERS if name not in stored]
    if missing:
        raise ModelError(f"holds no {', '.join(missing)}", where=str(path), remedy="load it as a whole file")
    return _progress(stored)


def _progress(stored: Mapping[str, Tensor]) -> Progress:
    def number(name: str) -> float:
        return float(stored[name].array().reshape(-1)[0])

    epoch, step = int(number("epoch_num")), int(number("global_step"))
    if "loss_scale" not in stored or "last_overflow_iterator_step" not in stored:
        return Progress(epoch, step)
    return Progress(epoch, step, number("loss_scale"), step - int(number("last_overflow_iterator_step")))


def load_rank_weights(
    path: Path,
    weights: Sequence[ms.Parameter],
    strategy: Strategy | None = None,
    place: Place | None = None,
) -> None:
    """Fill the weights alone from this rank's own shard."""
    _fill(path, weights, _read(path), (), strategy, place)


def _fill(
    path: Path,
    parameters: Sequence[ms.Parameter],
    stored: dict[str, Tensor],
    wanted: tuple[str, ...],
    strategy: Strategy | None,
    place: Place | None,
) -> None:
    """Of the weights, and what begins as one of `wanted`, every name must fit."""
    strategy, place = strategy or Strategy(), place or Place(0, 0, 0, 0)
    stored = _without_table_again(stored, path, lambda name, whole: cut(name, whole, strategy, place))
    known = {n: t for n, t in stored.items() if is_weight(n) or n.startswith(wanted)}
    shapes = {item.name: stored_shape(item.name, item.shape, strategy) for item in parameters}
    check_names(shapes, {name: tensor.dims for name, tensor in known.items()}, path, remedy=ANOTHER_LAYOUT)
    for item in parameters:
        value = _to_array(known[item.name]).reshape(shapes[item.name])
        _set(item, cut(item.name, value, strategy, place) if strategy.pads(item.name) else value)


def _read(path: Path) -> dict[str, Tensor]:
    """What the file holds, under own names."""
    if not path.is_file():
        raise ModelError("there is no such checkpoint file", where=str(path), remedy="see checkpoint.load")
    stored = read_safetensors(path) if path.suffix == ".safetensors" else read_ckpt(path)
    try:
        return under_own_names(stored)
    except CheckpointError as error:
        raise ModelError(error.what, where=str(path)) from None


_ROWS = 1 << 14


def _without_table_again(
    stored: dict[str, Tensor],
    path: Path,
    part_of: Callable[[str, Array], Array] = lambda name, whole: whole,
) -> dict[str, Tensor]:
    """Without a second copy of the table as the head, which must be equal. ModelError where it is not.

    `part_of` cuts it where it is whole and the table is not.
    """
    pair = table_again(stored)
    if pair is None:
        return stored
    head, table = stored[pair[0]], stored[pair[1]]
    again = head.array().reshape(head.dims)
    if head.dims != table.dims and head.dims[1:] == table.dims[1:]:
        again = part_of(pair[1], again)
    if head.dtype != table.dtype or not _same_bits(again, table.array().reshape(table.dims)):
        raise ModelError(
            f"{pair[0]} is not {pair[1]} again, but this network's head is its embedding",
            where=str(path),
            remedy="it is the checkpoint of another network",
        )
    logger.warning("%s: %s is the embedding again and is left out", path, pair[0])
    return {name: tensor for name, tensor in stored.items() if name != pair[0]}


def _same_bits(one: Array, other: Array) -> bool:
    """Some rows at a time: comparing makes an array of its own."""
    return one.shape == other.shape and all(
        one[row : row + _ROWS].tobytes() == other[row : row + _ROWS].tobytes()
        for row in range(0, len(one), _ROWS)
    )


def _set(parameter: ms.Parameter, value: Array) -> None:
    parameter.set_data(ms.Tensor(np.ascontiguousarray(value), parameter.dtype))
