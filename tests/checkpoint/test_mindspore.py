"""Our files against MindSpore's own readers, writers, merge and transform: the same bits."""

import os

import numpy as np
import pytest

from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import Strategy, read_strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import (
    read_ckpt,
    read_safetensors,
    write_ckpt,
    write_safetensors,
)
from orchestrator.checkpoint.files.tensor_types import Tensor
from orchestrator.checkpoint.host_files import LocalFiles
from orchestrator.transfer.collect import Collection, collect
from tests.checkpoint.support import bloom, random, save_run
from tests.checkpoint.test_ckpt_file import sample

pytestmark = pytest.mark.mindspore


@pytest.fixture(scope="module")
def ms():
    os.environ.setdefault("GLOG_v", "3")
    return pytest.importorskip("mindspore")


BFLOAT16 = Tensor.of(np.array([[0x3F80, 0xC000]], np.uint16), "BFloat16")


def bits(parameter):
    """The values of a MindSpore tensor; bfloat16 as the bits it is made of."""
    array = parameter.asnumpy()
    return array.view(np.uint16) if "bfloat16" in str(array.dtype) else array


@pytest.mark.parametrize("limit", [1 << 29, 16])
def test_mindspore_reads_our_ckpt(ms, tmp_path, limit):
    tensors = sample()
    write_ckpt(tmp_path / "a.ckpt", [*tensors.items(), ("bf", BFLOAT16)], piece_limit=limit)
    write_ckpt(tmp_path / "text.ckpt", [("note", "hello"), ("w", np.ones(2))])
    read = ms.load_checkpoint(str(tmp_path / "a.ckpt"))
    assert set(read) == {*tensors, "bf"}
    for name, value in tensors.items():
        np.testing.assert_array_equal(read[name].asnumpy(), value)
        assert read[name].shape == value.shape
    np.testing.assert_array_equal(bits(read["bf"]), BFLOAT16.array())
    assert ms.load_checkpoint(str(tmp_path / "text.ckpt"))["note"] == "hello"


def test_we_read_mindspore_s_ckpt(ms, tmp_path):
    tensors = {
        name: value for name, value in sample().items() if name not in ("none", "big.endian", "transposed")
    }
    saved = [{"name": name, "data": ms.Tensor(value)} for name, value in tensors.items()]
    saved.append({"name": "bf", "data": ms.Tensor(np.array([[1.0, -2.0]], np.float32), ms.bfloat16)})
    more = {"epoch_num": 3, "lr": 0.5, "note": "hello"}
    ms.save_checkpoint(saved, str(tmp_path / "a.ckpt"), append_dict=more, crc_check=True)
    read = read_ckpt(tmp_path / "a.ckpt")
    for name, value in tensors.items():
        np.testing.assert_array_equal(read[name].array(), value)
        assert read[name].dims == value.shape
    assert read["bf"].dtype == "BFloat16"
    np.testing.assert_array_equal(read["bf"].array(), BFLOAT16.array())
    assert (int(read["epoch_num"].array()), float(read["lr"].array()), read["note"].text()) == (
        3,
        0.5,
        "hello",
    )


def test_safetensors_both_ways(ms, tmp_path):
    tensors = {name: value for name, value in sample().items() if name not in ("none", "big.endian")}
    write_safetensors(tmp_path / "a.safetensors", [*tensors.items(), ("bf", BFLOAT16)])
    read = ms.load_checkpoint(str(tmp_path / "a.safetensors"), format="safetensors")
    assert set(read) == {*tensors, "bf"}
    for name, value in tensors.items():
        np.testing.assert_array_equal(read[name].asnumpy(), value)
    saved = [
        {"name": name, "data": ms.Tensor(np.ascontiguousarray(value))} for name, value in tensors.items()
    ]
    ms.save_checkpoint(saved, str(tmp_path / "b.safetensors"), format="safetensors")
    for name, tensor in read_safetensors(tmp_path / "b.safetensors").items():
        np.testing.assert_array_equal(tensor.array(), tensors[name])


def test_strategy_files_are_mindspore_s_own(ms, tmp_path):
    from mindspore.train.node_strategy_pb2 import ParallelStrategyMap

    strategy = Strategy(1, {"w": Layout((2, 4), (0, -1), 4, 2), "n": Layout((2, 2, 2), ((2, 0), -1))})
    write_strategy(tmp_path / "s.ckpt", strategy)
    parsed = ParallelStrategyMap()
    parsed.ParseFromString((tmp_path / "s.ckpt").read_bytes())
    assert parsed.SerializeToString() == (tmp_path / "s.ckpt").read_bytes()
    layout = parsed.parallel_layout_item[0].parallel_layouts
    assert (list(layout.dev_matrix[0].dim), list(layout.tensor_map[0].dim)) == ([2, 4], [0, -1])
    parsed.current_stage = 7
    (tmp_path / "t.ckpt").write_bytes(parsed.SerializeToString())
    assert read_strategy(tmp_path / "t.ckpt") == strategy


def optimizer_sharded():
    grid = (2, 2)
    return {
        "rows": (random((8, 3), "float16"), Layout(grid, (0, -1), 2, 2)),
        "columns": (random((6, 10), "float32", 1), Layout(grid, (-1, 0), 2, 2)),
        "whole": (random((4, 5), "float32", 2), Layout(grid, (-1, -1), 1, 4)),
        "bias": (random((7,), "float32", 3), Layout(grid, (-1,))),
    }


def repeated():
    """Device matrices that differ and end in repetition axes, as MindSpore itself writes them."""
    return {
        "first": (random((4, 9), "float32"), Layout((2, 2, 2), (1, -1))),
        "second": (random((6, 4), "float16", 1), Layout((2, 4), (-1, 0))),
        "third": (random((4, 6), "float32", 2), Layout((4, 2), (1, 0))),
        "both": (random((8, 5), "float32", 3), Layout((2, 2, 2), ((2, 0), -1))),
        "cut.again": (random((8, 5), "float32", 4), Layout((2, 2, 2), (1, -1), 1, 2)),
    }


def brain():
    return {
        # Finite values: transform_checkpoints takes bfloat16 through float32.
        "brain": (random((6, 8), "float32").view(np.uint16)[:, 1::2].copy(), Layout((2, 2), (0, -1))),
        "half": (random((5, 14), "float16", 1), Layout((2, 2), (-1, 0))),
    }


STAGES = {
    "dp2 mp2": [bloom(2, 2)],
    "mp4": [bloom(1, 4)],
    "dp4": [bloom(4, 1)],
    "mp3": [bloom(1, 3, dtype="float16")],
    "optimizer": [optimizer_sharded()],
    "repeated": [repeated()],
    "bfloat16": [brain()],
}


@pytest.mark.parametrize("case", STAGES)
def test_collect_equals_transform_checkpoints(ms, tmp_path, case):
    run = save_run(tmp_path, STAGES[case], hosts=("a",), bfloat16=frozenset({"brain"}))
    merged = str(tmp_path / "merged.ckpt")
    ms.merge_pipeline_strategys(str(tmp_path / "strategy"), merged)
    ms.transform_checkpoints(str(tmp_path / "a"), str(tmp_path / "out"), "whole_", merged, None)
    theirs = ms.load_checkpoint(str(tmp_path / "out" / "rank_0" / "whole_0.ckpt"))
    for format in ("ckpt", "safetensors"):
        output = tmp_path / f"ours.{format}"
        options = {"with_optimizer": True, "format": format}
        collect(LocalFiles(run.folders), ["a"], Collection(run.strategies, run.world_size, **options), output)
        ours = ms.load_checkpoint(str(output), format=format)
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            assert ours[name].dtype == value.dtype
            np.testing.assert_array_equal(bits(ours[name]), bits(value))
    for name, value in run.full.items():
        np.testing.assert_array_equal(bits(ours[name]), value)


def test_pipeline_stages_equal_transform_checkpoints(ms, tmp_path):
    second = {f"second.{name}": value for name, value in bloom(2, 2, seed=9).items()}
    run = save_run(tmp_path, [bloom(2, 2), second], hosts=("a",))
    merged = str(tmp_path / "merged.ckpt")
    ms.merge_pipeline_strategys(str(tmp_path / "strategy"), merged)
    ms.transform_checkpoints(str(tmp_path / "a"), str(tmp_path / "out"), "whole_", merged, None)
    theirs = ms.load_checkpoint(str(tmp_path / "out" / "rank_0" / "whole_0.ckpt"))
    wanted = Collection(run.strategies, run.world_size)
    collect(LocalFiles(run.folders), ["a"], wanted, tmp_path / "ours.ckpt")
    ours = ms.load_checkpoint(str(tmp_path / "ours.ckpt"))
    assert set(ours) == set(run.full) <= set(theirs)
    for name, value in run.full.items():
        np.testing.assert_array_equal(ours[name].asnumpy(), value)
        np.testing.assert_array_equal(theirs[name].asnumpy(), value)
