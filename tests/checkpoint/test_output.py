import os

import numpy as np
import pytest

from orchestrator.checkpoint.copy_options import CopyOptions
from orchestrator.checkpoint.cut.slices import Layout, region
from orchestrator.checkpoint.files.tensor_files import lay_out_ckpt, read_ckpt
from orchestrator.checkpoint.files.tensor_types import Spec, Tensor
from orchestrator.checkpoint.output_layout import Destination, OutputLayout
from orchestrator.checkpoint.output_writer import OutputFiles, discard
from orchestrator.core.errors import CheckpointError
from tests.checkpoint.support import cut, random

PLENTY = CopyOptions(free=lambda folder: 1 << 40)
LAYOUTS = {
    "rows": Layout((4,), (0, -1)),
    "columns": Layout((4,), (-1, 0)),
    "both": Layout((2, 2), (1, 0)),
    "optimizer": Layout((2, 2), (-1, 0), 2, 2),
}


def one_file(specs, limit=1 << 29):
    layout = lay_out_ckpt(specs, limit)
    destinations = [
        Destination(spec, spec.dtype, 0, spans) for spec, spans in zip(specs, layout.spans, strict=True)
    ]
    return OutputLayout((("", layout),), tuple(destinations))


def fill(output, tensor, value, layout, chunk):
    for index in range(4):
        box = region(layout, value.shape, index)
        data = memoryview(np.ascontiguousarray(cut(value, layout, index)).tobytes())
        for start in range(0, len(data), chunk):
            output.put(tensor, box, start, data[start : start + chunk])


@pytest.mark.parametrize("limit", [1 << 29, 1000, 104])
@pytest.mark.parametrize("chunk", [12, 96, 4096])
def test_slices_in_any_chunks_and_pieces_make_the_tensor(tmp_path, limit, chunk):
    values = {name: random((8, 12), seed=i) for i, name in enumerate(LAYOUTS)}
    specs = [Tensor.of(value).spec(name) for name, value in values.items()]
    with OutputFiles(tmp_path / "o.ckpt", one_file(specs, limit), PLENTY) as output:
        for number, name in enumerate(LAYOUTS):
            fill(output, number, values[name], LAYOUTS[name], chunk)
        output.finish()
    read = read_ckpt(tmp_path / "o.ckpt")
    for name, value in values.items():
        np.testing.assert_array_equal(read[name].array(), value)
    assert os.listdir(tmp_path) == ["o.ckpt"]


def test_rows_of_many_pages(tmp_path):
    value = random((700, 900, 2), "float16")
    specs = [Tensor.of(value).spec("w")]
    with OutputFiles(tmp_path / "o.ckpt", one_file(specs), PLENTY) as output:
        fill(output, 0, value, Layout((4,), (-1, 0, -1)), 100_000)
        output.finish()
    np.testing.assert_array_equal(read_ckpt(tmp_path / "o.ckpt")["w"].array(), value)


def opened(tmp_path, options=PLENTY, keep=False):
    specs = [Spec("w", (4, 4), "Float32"), Spec("v", (2,), "Float32")]
    return OutputFiles(tmp_path / "o.ckpt", one_file(specs), options, keep=keep)


def test_a_full_disk_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"GB free.*free some space"):
        opened(tmp_path, CopyOptions(free=lambda folder: 1000))
    assert os.listdir(tmp_path) == []


def test_leaving_early_leaves_the_old_file_and_what_can_be_gone_on_with(tmp_path):
    (tmp_path / "o.ckpt").write_text("the one before")
    with pytest.raises(KeyboardInterrupt), opened(tmp_path) as output:
        output.put(1, ((0, 2),), 0, memoryview(b"12345678"))
        raise KeyboardInterrupt
    assert (tmp_path / "o.ckpt").read_text() == "the one before"
    with opened(tmp_path, keep=True) as output:
        assert output.crc(1, ((0, 2),), 0, 8) == 0x9AE0DAAF
    with opened(tmp_path) as output:
        assert output.crc(1, ((0, 2),), 0, 8) != 0x9AE0DAAF
    discard(tmp_path / "o.ckpt")
    assert os.listdir(tmp_path) == ["o.ckpt"]


def test_a_tensor_that_is_not_complete_is_named(tmp_path):
    with (
        pytest.raises(CheckpointError, match="32 bytes of w are missing, 2 tensors"),
        opened(tmp_path) as output,
    ):
        output.put(0, ((0, 4), (0, 4)), 0, memoryview(bytes(32)))
        output.finish()
    assert not (tmp_path / "o.ckpt").exists()


def test_a_folder_is_no_output(tmp_path):
    (tmp_path / "o.ckpt").mkdir()
    with pytest.raises(CheckpointError, match="is a folder"):
        opened(tmp_path)


def test_after_the_end_nothing_is_written(tmp_path):
    output = opened(tmp_path)
    with output:
        pass
    with pytest.raises(CheckpointError, match="closed"):
        output.put(1, ((0, 2),), 0, memoryview(bytes(8)))
