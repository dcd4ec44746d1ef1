import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint.spans import RegionSpans, StridedSpan, locate


@st.composite
def boxes(draw):
    dims = tuple(draw(st.lists(st.integers(1, 5), min_size=0, max_size=4)))
    region = tuple(tuple(sorted((draw(st.integers(0, n)), draw(st.integers(0, n))))) for n in dims)
    return dims, region


@settings(max_examples=300, deadline=None)
@given(boxes(), st.integers(1, 4), st.integers(1, 40))
def test_chunks_of_any_size_land_where_numpy_puts_them(box, item, step):
    dims, region = box
    whole = np.arange(math.prod(dims) * item).reshape(*dims, item)
    expected = whole[tuple(slice(*span) for span in region)].reshape(-1)
    scatter = RegionSpans.of(dims, item, region)
    assert scatter.nbytes == expected.size
    seen = []
    for start in range(0, scatter.nbytes, step):
        for part in scatter.between(start, min(start + step, scatter.nbytes)):
            for row in range(part.rows):
                first = part.offset + row * part.stride
                seen += range(first, first + part.run)
    np.testing.assert_array_equal(seen, expected)


def test_a_cut_of_the_last_axis_is_one_stretch():
    scatter = RegionSpans.of((1000, 64), 4, ((0, 1000), (32, 64)))
    assert list(scatter.between(0, scatter.nbytes)) == [StridedSpan(128, 128, 256, 1000)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.data())
def test_pieces_of_a_file_split_a_stretch(lengths, data):
    total = sum(lengths) + 1
    lengths.append(1)
    run = data.draw(st.integers(1, total))
    stride = data.draw(st.integers(run, total))
    rows = data.draw(st.integers(1, (total - run) // stride + 1))
    offset = data.draw(st.integers(0, total - run - (rows - 1) * stride))
    places, position, where = [], 0, []
    for length in lengths:
        position += 3
        places.append((position, length))
        where += range(position, position + length)
        position += length
    wanted = [where[offset + row * stride + i] for row in range(rows) for i in range(run)]
    parts = locate(StridedSpan(offset, run, stride, rows), places)
    got = [
        part.offset + row * part.stride + i
        for part in parts
        for row in range(part.rows)
        for i in range(part.run)
    ]
    assert got == wanted
