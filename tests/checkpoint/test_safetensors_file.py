import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from orchestrator.checkpoint.files.tensor_files import (
    lay_out_safetensors,
    read_safetensors,
    write_safetensors,
)
from orchestrator.checkpoint.files.tensor_types import Tensor
from orchestrator.core.errors import CheckpointError
from tests.checkpoint.test_ckpt_file import sample


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", sample().items())
    read = load_file(tmp_path / "a.safetensors")
    assert set(read) == set(sample())
    for name, value in sample().items():
        np.testing.assert_array_equal(read[name], value)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_we_read_what_the_safetensors_library_writes(tmp_path):
    native = {name: np.ascontiguousarray(value) for name, value in sample().items() if name != "big.endian"}
    save_file(native, tmp_path / "a.safetensors", metadata={"format": "pt"})
    read = read_safetensors(tmp_path / "a.safetensors")
    assert set(read) == set(native)
    for name, value in native.items():
        np.testing.assert_array_equal(read[name].array(), value)


def test_bfloat16_keeps_its_name(tmp_path):
    write_safetensors(
        tmp_path / "a.safetensors", [("w", Tensor.of(np.array([0x3F80], np.uint16), "BFloat16"))]
    )
    assert read_safetensors(tmp_path / "a.safetensors")["w"].dtype == "BFloat16"
    with safe_open(tmp_path / "a.safetensors", "numpy") as file:
        assert file.get_slice("w").get_dtype() == "BF16"


def test_the_layout_is_where_the_writer_puts_things(tmp_path):
    tensors = [(name, Tensor.of(value)) for name, value in sample().items()]
    write_safetensors(tmp_path / "a.safetensors", tensors)
    layout = lay_out_safetensors([tensor.spec(name) for name, tensor in tensors])
    content = (tmp_path / "a.safetensors").read_bytes()
    assert len(content) == layout.size
    for (_, tensor), ((offset, length),) in zip(tensors, layout.spans, strict=True):
        assert content[offset : offset + length] == bytes(tensor.data)


def test_a_text_cannot_be_stored(tmp_path):
    with pytest.raises(CheckpointError, match="note is a text"):
        write_safetensors(tmp_path / "a.safetensors", [("note", Tensor.of("x"))])


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"abc", "cut off"),
        (b"\xff" * 8 + b"{}", "cut off"),
        (file_of(b"{"), "no JSON"),
        (file_of(b"[" * 5000 + b"]" * 5000), "the header is no"),
        (file_of([]), "no table"),
        (file_of({"w": 3}), "incomplete"),
        (file_of({"w": entry("F8_E4M3")}, bytes(4)), "w is of type F8_E4M3"),
        (file_of({"w": entry(shape=[True])}, bytes(4)), "no sizes"),
        (file_of({"w": entry(shape=[1 << 60, 0])}), "no sizes"),
        (file_of({"w": entry()}, bytes(3)), "ends inside w"),
        (file_of({"w": entry(shape=[2])}, bytes(4)), "does not fit"),
        (file_of({"w": entry(), "v": entry(offsets=(8, 12))}, bytes(12)), "v of shape"),
        (file_of({"w": entry()}, bytes(5)), "belong to no tensor"),
        (file_of({"w": entry(dtype=["F32"])}, bytes(4)), "incomplete"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, content, message):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_safetensors(tmp_path / "bad.safetensors")
