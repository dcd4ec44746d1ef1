from __future__ import annotations

import numpy as np
import pytest

from orchestrator.checkpoint.files.transpose import transpose

SHAPES = [(1, 1), (3, 5), (64, 64), (65, 7), (130, 300), (8, 3), (0, 4), (4, 0), (192, 1)]


@pytest.mark.parametrize("dtype", ["<u2", "<f2", "<f4", "<f8", "u1"])
def test_every_shape_is_turned_bit_by_bit(dtype):
    random = np.random.default_rng(1)
    for shape in SHAPES:
        bits = random.integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8)  # NaNs too
        matrix = bits.view(dtype).reshape(shape)
        out = np.zeros(shape[::-1], dtype)
        transpose(matrix, out)
        assert out.tobytes() == np.ascontiguousarray(matrix.T).tobytes(), shape


def test_a_stripe_of_a_wider_matrix():
    matrix = np.arange(128 * 40, dtype=np.uint16).reshape(128, 40)
    out = np.zeros((8, 128), np.uint16)
    transpose(matrix[:, 16:24], out)
    np.testing.assert_array_equal(out, matrix[:, 16:24].T)
