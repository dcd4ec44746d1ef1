from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore.common.api import _cell_graph_executor

from model.devices.device import CPU, Device, built_for
from model.training.gradients import buckets, weighted_squares_of

ASCEND = Device("Ascend", "ascend910b")


def squares_on(device: Device, arrays: list[np.ndarray], weights: list[float]):
    """The weighted sum, and the compiled graph."""
    with built_for(device):
        cell = weighted_squares_of([array.size for array in arrays], weights)
    found = cell(ms.mutable(tuple(ms.Tensor(array) for array in arrays)))
    assert found.shape == ()
    return float(found.asnumpy()), _cell_graph_executor.get_optimize_graph_proto(cell)


@pytest.mark.parametrize("device", [CPU, ASCEND], ids=lambda device: device.target)
def test_squares_are_weighted_and_summed(device):
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (5,), (1,), (64, 33))]
    weights = [1.0, 0.5, 0.0, 0.25]
    expected = sum(
        weight * np.sum(array.astype(np.float64) ** 2) for array, weight in zip(arrays, weights, strict=True)
    )
    found, _ = squares_on(device, arrays, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("device", [CPU, ASCEND], ids=lambda device: device.target)
@pytest.mark.parametrize(
    ("value", "size", "expected"),
    [(300.0, 7, 63e4), (1e18, 340, 3.4e38), (1e18, 342, np.inf), (2e19, 2, np.inf), (np.nan, 3, np.nan)],
)
def test_a_sum_of_squares_is_infinite_only_where_float32_has_no_such_number(device, value, size, expected):
    found, _ = squares_on(device, [np.full(size, value, np.float32), np.ones(3, np.float32)], [1.0, 1e-3])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_only_the_cpu_sums_squares_by_products():
    arrays = [np.ones((3, 4), np.float32), np.ones(5, np.float32)]
    _, products = squares_on(CPU, arrays, [1.0, 1.0])
    _, sums = squares_on(ASCEND, arrays, [1.0, 1.0])
    assert b"MatMul" in products and b"MatMul" not in sums and b"ReduceSum" in sums


def test_buckets_keep_order_and_limit():
    assert buckets([4, 4, 4], 100) == ((0, 3),)
    assert buckets([4, 4, 4], 8) == ((0, 2), (2, 3))
    assert buckets([4, 90, 4], 8) == ((0, 1), (1, 2), (2, 3))
    assert buckets([], 8) == ()


def test_a_bucket_is_of_one_kind():
    assert buckets([4, 4, 4, 4], 100, [True, True, False, True]) == ((0, 2), (2, 3), (3, 4))
    assert buckets([4, 4, 4, 4], 4, ["a", "a", "a", "b"]) == ((0, 1), (1, 2), (2, 3), (3, 4))
