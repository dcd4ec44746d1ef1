import json

import pytest

from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import (
    Strategy,
    parse_strategy,
    read_strategy,
    write_strategy,
)
from orchestrator.core.errors import CheckpointError
from orchestrator.formats.protobuf import bytes_field, varint_field

STRATEGY = Strategy(
    3,
    {
        "w": Layout((2, 4), (0, -1)),
        "adam_m.w": Layout((2, 4), (0, -1), 4, 2),
        "b": Layout((2, 2, 2), (-1,)),
        "nested": Layout((2, 2, 2), ((2, 0), -1)),
        "all": Layout((2, 4), (-1,), -1, -1),
        "nested.vector": Layout((2, 4), ((1, 0),)),
    },
)


def test_what_is_written_is_read(tmp_path):
    write_strategy(tmp_path / "s.ckpt", STRATEGY)
    assert read_strategy(tmp_path / "s.ckpt") == STRATEGY


def test_the_same_strategy_is_the_same_bytes(tmp_path):
    write_strategy(tmp_path / "s.ckpt", STRATEGY)
    write_strategy(tmp_path / "t.ckpt", STRATEGY)
    assert (tmp_path / "s.ckpt").read_bytes() == (tmp_path / "t.ckpt").read_bytes()


def test_the_json_form():
    layout = {"dev_matrix": [2, 4], "tensor_map": [0, -1], "field": 0, "param_split_shape": []}
    layout |= {"opt_weight_shard_step": 4, "opt_weight_shard_size": 2}
    items = {"MatMul": {"stage": 3, "parallel_strategy": [[1, 2]]}}
    content = json.dumps(
        {"current_stage": 1, "parallel_strategy_item": items, "parallel_layout_item": {"w": layout}}
    )
    assert parse_strategy(content.encode(), "s.json") == Strategy(3, {"w": Layout((2, 4), (0, -1), 4, 2)})


def message(matrix=(2,), tensor_map=(0,), field=0, shape=b"", packed=False):
    def numbers(values):
        if packed:
            return bytes_field(1, bytes(values))
        return b"".join(varint_field(1, value) for value in values)

    layouts = bytes_field(1, numbers(matrix)) + bytes_field(2, numbers(tensor_map)) + bytes_field(3, shape)
    layouts += varint_field(5, field) + varint_field(6, 0) + varint_field(7, 0)
    return varint_field(1, 2) + bytes_field(3, bytes_field(1, b"w") + bytes_field(2, layouts))


def test_packed_numbers_and_no_strategy_item():
    expected = Strategy(0, {"w": Layout((2,), (0,))})
    assert parse_strategy(message(), "s") == expected
    assert parse_strategy(message(packed=True), "s") == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no layouts"),
        (b"{", "damaged"),
        (b"{}", "damaged"),
        (b'{"parallel_layout_item": {"w": {}}}', "damaged"),
        (b'{"parallel_layout_item": {}}', "no layouts"),
        (b"\x1a\x05", "damaged"),
        (message()[:-1], "damaged"),
        (message(matrix=()), "no such layout"),
        (message(matrix=(0,)), "no such layout"),
        (message(tensor_map=(3,)), "outside the device matrix"),
        (message(matrix=(2, 2), tensor_map=(0, 0)), "no such layout"),
        (message(field=8), "w is cut unevenly"),
        (message(shape=varint_field(1, 3)), "w is cut unevenly"),
    ],
)
def test_a_bad_file_is_one_clear_error(content, problem):
    with pytest.raises(CheckpointError, match=problem) as caught:
        parse_strategy(content, "host a: s.ckpt")
    assert caught.value.where == "host a: s.ckpt"


def test_a_missing_file_and_an_empty_strategy(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_strategy(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="at least one"):
        write_strategy(tmp_path / "s.ckpt", Strategy(0, {}))
