"""The engine on files of this machine: what is transposed, in many stripes, beside what is not."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from orchestrator.checkpoint.copy_engine import _STRIPE, copy_files
from orchestrator.checkpoint.copy_plan import Copy, CopyPlan, whole_region
from orchestrator.checkpoint.files.tensor_files import read_safetensors, write_ckpt
from orchestrator.checkpoint.files.tensor_types import Array
from orchestrator.checkpoint.open_checkpoint import find_weights
from orchestrator.checkpoint.output_layout import lay_out
from orchestrator.checkpoint.shard_index import StoredTensor


def matrix(rows: int, columns: int) -> Array:
    return np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)


def copy_of(stored: StoredTensor, number: int = 0) -> Copy:
    return Copy(number, whole_region(stored.spec), 0, "", stored.path, stored, whole_region(stored.spec))


@pytest.mark.parametrize(
    "rows, columns, size", [(3, 5, 24), (3, 5, 1), (1, 7, 8), (4, 4, 1 << 20), (2, 9, 40)]
)
def test_stripes_hold_every_column_once_and_in_order(
    tmp_path: Path, rows: int, columns: int, size: int
) -> None:
    write_ckpt(tmp_path / "a.ckpt", [("m", matrix(rows, columns))])
    stored = find_weights(tmp_path / "a.ckpt")["m"]
    stripes = list(copy_of(stored).stripes(size))
    assert [stripe.region for stripe in stripes] == [stripe.part for stripe in stripes]
    assert all(stripe.part[0] == (0, rows) for stripe in stripes)
    edges = [stripe.part[1] for stripe in stripes]
    assert edges[0][0] == 0 and edges[-1][1] == columns
    assert all(first[1] == second[0] for first, second in itertools.pairwise(edges))
    widest = max(stop - start for start, stop in edges)
    assert widest * rows * 4 <= max(size, rows * 4)


def test_a_transposed_matrix_of_many_stripes_is_numpys(tmp_path: Path) -> None:
    """Larger than two stripes, not a multiple of one, and its neighbour in the file is left as it is."""
    rows = 3001
    columns = 2 * _STRIPE // (4 * rows) + 7
    written = {"m": matrix(rows, columns), "n": matrix(5, 3)}
    write_ckpt(tmp_path / "a.ckpt", written.items())
    weights = find_weights(tmp_path / "a.ckpt")
    stored = [weights[name] for name in written]
    layout = lay_out([[one.spec for one in stored]], "safetensors", transposed={"m"})
    plan = CopyPlan((), tuple(copy_of(one, number) for number, one in enumerate(stored)), ())
    copy_files(plan, tmp_path / "b.safetensors", layout)
    found = read_safetensors(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(found["m"].array(), written["m"].T)
    np.testing.assert_array_equal(found["n"].array(), written["n"])
