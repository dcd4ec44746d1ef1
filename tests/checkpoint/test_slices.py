import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint.cut.slices import Layout, cuts, full_shape, is_whole, region, slice_shape, slices
from orchestrator.core.errors import CheckpointError


@st.composite
def layouts(draw):
    """A grid, each of its axes given to a tensor axis or to none, and now and then an optimizer's cut."""
    matrix = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    rank = draw(st.integers(1, 3))
    groups = [[] for _ in range(rank)]
    free = 1
    for axis, size in enumerate(matrix):
        home = draw(st.integers(-1, rank - 1))
        if home < 0:
            free *= size
        else:
            groups[home].append(len(matrix) - 1 - axis)
    entries = tuple(-1 if not g else g[0] if len(g) == 1 else tuple(g) for g in groups)
    if free == 1 or draw(st.booleans()):
        return Layout(matrix, entries)
    size = draw(st.sampled_from([n for n in range(1, free + 1) if free % n == 0] + [-1]))
    return Layout(matrix, entries, draw(st.integers(1, 4)), size)


@settings(max_examples=300, deadline=None)
@given(layouts(), st.data())
def test_split_then_combine_gives_the_tensor_back(layout, data):
    part = tuple(data.draw(st.integers(1, 3)) for _ in layout.tensor_map)
    whole = full_shape(layout, part)
    assert slice_shape(layout, whole) == part
    value = np.arange(math.prod(whole)).reshape(whole)
    combined = np.full(whole, -1)
    written = np.zeros(whole, int)
    for index in range(layout.device_count):
        box = tuple(slice(*span) for span in region(layout, whole, index))
        combined[box] = value[box]
        written[box] += 1
    np.testing.assert_array_equal(combined, value)
    # Every element has as many replicas as any other.
    assert set(written.flat) == {layout.device_count // math.prod(cuts(layout))}


@settings(max_examples=100, deadline=None)
@given(layouts())
def test_equal_slices_are_equal_regions(layout):
    whole = full_shape(layout, (2,) * len(layout.tensor_map))
    held = slices(layout)
    assert len(set(held)) == math.prod(cuts(layout))
    pairs = {(held[i], region(layout, whole, i)) for i in range(layout.device_count)}
    assert len(pairs) == len(set(held)) == len({box for _, box in pairs})


def test_the_map_counts_from_the_right():
    layout = Layout((2, 4), (1, 0))
    assert region(layout, (4, 8), 0) == ((0, 2), (0, 2))
    assert region(layout, (4, 8), 3) == ((0, 2), (6, 8))
    assert region(layout, (4, 8), 5) == ((2, 4), (2, 4))


def test_repetition_axes_at_the_end_make_neighbours_replicas():
    layout = Layout((2, 2, 512), (1, -1))
    assert region(layout, (8, 3), 0) == region(layout, (8, 3), 511) == ((0, 4), (0, 3))
    assert region(layout, (8, 3), 512) == region(layout, (8, 3), 2047) == ((4, 8), (0, 3))


def test_the_optimizer_cuts_inside_the_slice():
    layout = Layout((2, 2), (0, -1), 2, 2)
    assert [region(layout, (8, 3), rank)[0] for rank in range(4)] == [(0, 2), (4, 6), (2, 4), (6, 8)]


def test_a_layout_for_fewer_ranks_repeats():
    layout = Layout((2,), (0,))
    assert region(layout, (4,), 3) == region(layout, (4,), 1) == ((2, 4),)


def test_scalars_are_whole():
    for layout in (Layout((4,), ()), Layout((4,), (-1,))):
        assert full_shape(layout, ()) == ()
        assert region(layout, (), 3) == ()
    assert is_whole(((0, 3),), (3,))
    assert not is_whole(((0, 2),), (3,))


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        (((2,), (0, -1)), (4,), "1 axes and the tensor map"),
        (((2,), (0,)), (), "0 axes"),
        (((3,), (0,)), (4,), "cannot be cut"),
        (((2, 2), (0,), 2, 3), (12,), "replicas cannot be cut"),
        (((2, 2), (0,), 2, 4), (16,), "replicas cannot be cut"),
    ],
)
def test_a_shape_that_does_not_fit(layout, shape, message):
    with pytest.raises(CheckpointError, match=message):
        slice_shape(Layout(*layout), shape)
