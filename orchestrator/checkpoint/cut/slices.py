"""Slice algebra: which part of a tensor a rank holds. Pure arithmetic, no files.

A stage's devices are seen as a grid, `dev_matrix`, in row-major order over the ranks of the stage.
`tensor_map[i]` names the grid axis that cuts axis i of the tensor, counted from the right; -1 is not cut;
several grid axes that cut one tensor axis are a tuple, the coarsest first. With the parallel optimizer axis
0 of a slice is cut once more into `opt_weight_shard_size` pieces; ranks `opt_weight_shard_step` apart hold
neighbouring pieces; size -1 means as many as there are replicas.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.core.errors import CheckpointError

__all__ = [
    "Layout",
    "MapEntry",
    "Region",
    "cuts",
    "full_shape",
    "is_whole",
    "region",
    "slice_shape",
    "slices",
]

MapEntry: TypeAlias = int | tuple[int, ...]
Region: TypeAlias = tuple[tuple[int, int], ...]
# One number per tensor axis, then the piece of the optimizer's cut.
SliceId: TypeAlias = tuple[int, ...]

# More than any cluster has: a damaged matrix must not become a table of that size.
_MOST_DEVICES = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """How one parameter is cut over the ranks of a stage."""

    dev_matrix: tuple[int, ...]
    tensor_map: tuple[MapEntry, ...]
    opt_weight_shard_step: int = 0
    opt_weight_shard_size: int = 0

    def __post_init__(self) -> None:
        used = [axis for axis in _flat(self.tensor_map) if axis != -1]
        if not self.dev_matrix or min(self.dev_matrix) < 1 or len(used) != len(set(used)):
            raise CheckpointError(
                f"no such layout: device matrix {self.dev_matrix}, tensor map {self.tensor_map}"
            )
        if self.device_count > _MOST_DEVICES:
            raise CheckpointError(f"no such layout: a device matrix {self.dev_matrix}")
        if any(not 0 <= axis < len(self.dev_matrix) for axis in used):
            raise CheckpointError(
                f"tensor map {self.tensor_map} points outside the device matrix {self.dev_matrix}"
            )

    @property
    def device_count(self) -> int:
        return math.prod(self.dev_matrix)


def _flat(tensor_map: Sequence[MapEntry]) -> list[int]:
    return [axis for entry in tensor_map for axis in (entry if isinstance(entry, tuple) else (entry,))]


@functools.lru_cache(maxsize=1024)
def cuts(layout: Layout) -> tuple[int, ...]:
    """Pieces per tensor axis; the last number is the optimizer's cut of axis 0 (1 where there is none)."""
    pieces = tuple(math.prod(layout.dev_matrix[axis] for axis in group) for group in _grid_axes(layout))
    return (*pieces, _optimizer_pieces(layout, math.prod(pieces)))


def _grid_axes(layout: Layout) -> list[tuple[int, ...]]:
    last = len(layout.dev_matrix) - 1
    entries = (entry if isinstance(entry, tuple) else (entry,) for entry in layout.tensor_map)
    return [tuple(last - axis for axis in entry if axis != -1) for entry in entries]


def _optimizer_pieces(layout: Layout, pieces: int) -> int:
    size, step = layout.opt_weight_shard_size, layout.opt_weight_shard_step
    replicas = layout.device_count // pieces
    if size == 0 or step == 0:
        return 1
    wanted = replicas if size == -1 else size
    if wanted < 1 or replicas % wanted or not layout.tensor_map:
        raise CheckpointError(f"{replicas} replicas cannot be cut into {size} optimizer pieces: {layout}")
    return wanted


@functools.lru_cache(maxsize=1024)
def slices(layout: Layout) -> tuple[SliceId, ...]:
    """The slice that each rank of the stage holds; equal slices are replicas."""
    pieces = cuts(layout)[-1]
    coordinates = [_coordinates(index, layout.dev_matrix) for index in range(layout.device_count)]
    held = [_tensor_slice(layout, at) for at in coordinates]
    if pieces == 1:
        return tuple((*part, 0) for part in held)
    # The stride tells the pieces apart wherever a group's ranks are evenly spaced. Where replicas lie on grid
    # axes with a cut axis between them no stride can, and the grid itself decides.
    step = abs(layout.opt_weight_shard_step)
    numbers = [index // step % pieces for index in range(len(held))]
    evenly = len(held) % (step * pieces) == 0
    if evenly and all(held[i] == held[i - number * step] for i, number in enumerate(numbers)):
        return tuple((*part, number) for part, number in zip(held, numbers, strict=True))
    return tuple((*part, _grid_piece(layout, at, pieces)) for part, at in zip(held, coordinates, strict=True))


def _coordinates(index: int, matrix: Sequence[int]) -> tuple[int, ...]:
    place = []
    for size in reversed(matrix):
        index, coordinate = divmod(index, size)
        place.append(coordinate)
    return tuple(reversed(place))


def _tensor_slice(layout: Layout, at: Sequence[int]) -> tuple[int, ...]:
    part = []
    for group in _grid_axes(layout):
        number = 0
        for axis in group:
            number = number * layout.dev_matrix[axis] + at[axis]
        part.append(number)
    return tuple(part)


def _grid_piece(layout: Layout, at: Sequence[int], pieces: int) -> int:
    """Number the replicas by the grid axes that cut nothing, rightmost fastest, until there are enough."""
    cutting = {axis for group in _grid_axes(layout) for axis in group}
    number, weight = 0, 1
    for axis in reversed(range(len(layout.dev_matrix))):
        if axis in cutting or weight == pieces:
            continue
        size = math.gcd(layout.dev_matrix[axis], pieces // weight)
        number += at[axis] % size * weight
        weight *= size
    if weight != pieces:
        raise CheckpointError(
            f"the device matrix {layout.dev_matrix} has no room for {pieces} optimizer pieces"
        )
    return number


def full_shape(layout: Layout, part: Sequence[int]) -> tuple[int, ...]:
    """The whole tensor's shape, of which `part` is the shape of each slice."""
    pieces = _fitting_cuts(layout, part)
    whole = [size * cut for size, cut in zip(part, pieces[:-1], strict=True)]
    if whole:
        whole[0] *= pieces[-1]
    return tuple(whole)


def slice_shape(layout: Layout, whole: Sequence[int]) -> tuple[int, ...]:
    """The shape of each slice; CheckpointError where the cut leaves a remainder."""
    pieces = list(_fitting_cuts(layout, whole))
    optimizer = pieces.pop()
    if pieces:
        pieces[0] *= optimizer
    if any(size % cut for size, cut in zip(whole, pieces, strict=True)):
        raise CheckpointError(f"a tensor of shape {list(whole)} cannot be cut into {pieces}")
    return tuple(size // cut for size, cut in zip(whole, pieces, strict=True))


def _fitting_cuts(layout: Layout, shape: Sequence[int]) -> tuple[int, ...]:
    pieces = cuts(layout)
    if not shape and math.prod(pieces) == 1:
        # MindSpore writes [-1] as the map of a scalar.
        return (1,)
    if len(shape) != len(layout.tensor_map):
        raise CheckpointError(
            f"shape {list(shape)} has {len(shape)} axes and the tensor map {list(layout.tensor_map)} "
            f"{len(layout.tensor_map)}"
        )
    return pieces


@functools.lru_cache(maxsize=1 << 12)  # layers are alike: few regions serve all of a network
def region(layout: Layout, whole: tuple[int, ...], index: int) -> Region:
    """The part `(start, stop)` per axis that rank `index` of the stage holds; beyond the grid it repeats."""
    part = slice_shape(layout, whole)
    if not whole:
        return ()
    *numbers, piece = slices(layout)[index % layout.device_count]
    numbers[0] = numbers[0] * cuts(layout)[-1] + piece
    return tuple((number * size, (number + 1) * size) for number, size in zip(numbers, part, strict=True))


def is_whole(box: Region, whole: Sequence[int]) -> bool:
    """True where the region is all of the tensor."""
    return all(start == 0 and stop == size for (start, stop), size in zip(box, whole, strict=True))
