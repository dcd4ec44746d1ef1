import os
import stat
import zlib

import numpy as np
import pytest

from orchestrator.checkpoint.files.tensor_files import lay_out_ckpt, read_ckpt, write_ckpt
from orchestrator.checkpoint.files.tensor_types import Tensor
from orchestrator.core.errors import CheckpointError
from orchestrator.formats.ckpt_index import index_buffer, index_ckpt
from orchestrator.formats.protobuf import bytes_field, varint_field

TYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
TYPES += ("float16", "float32", "float64")


def sample():
    tensors = {f"x.{name}": np.arange(6).reshape(2, 3).astype(name) for name in TYPES}
    tensors["scalar"] = np.array(2.5, np.float32)
    tensors["one"] = np.array([2.5], np.float32)
    tensors["none"] = np.zeros((0, 3), np.float32)
    tensors["transposed"] = np.arange(12).reshape(3, 4).T
    tensors["big.endian"] = np.arange(3, dtype=">f4")
    return tensors


def test_what_is_written_is_read(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", [*sample().items(), ("note", "héllo")])
    read = read_ckpt(tmp_path / "a.ckpt")
    assert list(read) == [*sample(), "note"]
    for name, value in sample().items():
        np.testing.assert_array_equal(read[name].array(), value)
        assert read[name].array().dtype == value.dtype.newbyteorder("=")
        assert read[name].dims == value.shape
    assert read["note"].text() == "héllo"


def test_a_file_is_private_and_has_no_trace_of_a_temporary(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", sample().items())
    assert stat.S_IMODE(os.stat(tmp_path / "a.ckpt").st_mode) == 0o600
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_bfloat16_travels_as_bits(tmp_path):
    bits = np.array([[0x3F80, 0xC000]], np.uint16)
    write_ckpt(tmp_path / "a.ckpt", [("w", Tensor.of(bits, "BFloat16"))])
    tensor = read_ckpt(tmp_path / "a.ckpt")["w"]
    assert tensor.dtype == "BFloat16"
    np.testing.assert_array_equal(tensor.array(), bits)


@pytest.mark.parametrize("limit", [8, 16, 100, 1 << 20])
def test_a_large_parameter_is_several_pieces(tmp_path, limit):
    value = np.arange(33, dtype=np.float32).reshape(3, 11)
    write_ckpt(tmp_path / "a.ckpt", [("w", value), ("b", value[0])], piece_limit=limit)
    entries = list(index_ckpt(str(tmp_path / "a.ckpt")))
    assert len(entries[0]["pieces"]) == -(-value.nbytes // (limit - limit % 8))
    np.testing.assert_array_equal(read_ckpt(tmp_path / "a.ckpt")["w"].array(), value)


@pytest.mark.parametrize("limit", [16, 1 << 20])
def test_the_layout_is_where_the_writer_puts_things(tmp_path, limit):
    specs = [Tensor.of(value).spec(name) for name, value in sample().items()]
    layout = lay_out_ckpt(specs, limit)
    write_ckpt(tmp_path / "a.ckpt", sample().items(), piece_limit=limit)
    entries = list(index_ckpt(str(tmp_path / "a.ckpt")))
    assert [[tuple(p) for p in e["pieces"]] for e in entries] == [list(place) for place in layout.spans]
    content = (tmp_path / "a.ckpt").read_bytes()
    assert len(content) == layout.size
    assert all(content[offset : offset + len(frame)] == frame for offset, frame in layout.frames)


def test_the_checksum_at_the_end_is_held_against_the_file(tmp_path):
    path = tmp_path / "a.ckpt"
    write_ckpt(path, sample().items())
    content = path.read_bytes()
    path.write_bytes(content + b"crc_num" + zlib.crc32(content).to_bytes(10, "big"))
    assert list(read_ckpt(path)) == list(sample())
    path.write_bytes(content + b"crc_num" + (zlib.crc32(content) ^ 1).to_bytes(10, "big"))
    with pytest.raises(CheckpointError, match="checksum"):
        read_ckpt(path)


def value(name, dims, dtype, content):
    tensor = b"".join(varint_field(1, dim) for dim in dims) + bytes_field(2, dtype) + bytes_field(3, content)
    return bytes_field(1, bytes_field(1, name) + bytes_field(2, tensor))


def test_older_files_write_a_scalar_as_no_elements(tmp_path):
    (tmp_path / "a.ckpt").write_bytes(value(b"x", [0], b"Float32", bytes(4)) + value(b"y", [0], b"Int8", b""))
    read = read_ckpt(tmp_path / "a.ckpt")
    assert (read["x"].dims, read["y"].dims) == ((), (0,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x00", "damaged"),
        (b"PK\x03\x04" + bytes(100), "damaged"),
        (value(b"w", [2], b"Float32", bytes(8))[:-1], "damaged"),
        (value(b"w", [3], b"Float32", bytes(8)), r"w of shape \[3\] needs 12 bytes and has 8"),
        (value(b"w", [1 << 62, 1 << 62], b"Float32", b""), "w has the shape"),
        (value(b"w", [0, 1 << 62], b"Float32", b""), "w has the shape"),
        (value(b"w", [-4], b"Float32", bytes(8)), "w has the shape"),
        (value(b"w", [1] * 33, b"Float32", bytes(4)), "more than 32"),
        (value(b"w", [4], b"Int4", bytes(2)), "w is of type Int4"),
        (value(b"w", [2], b"Int8", b"ab") * 2, "needs 2 bytes and has 4"),
        (
            value(b"w", [1], b"Int8", b"a")
            + value(b"v", [1], b"Int8", b"a")
            + value(b"w", [1], b"Int8", b"a"),
            "twice",
        ),
        (value(b"w", [2], b"Int8", b"a") + value(b"w", [3], b"Int8", b"a"), "do not agree"),
        (bytes_field(1, bytes_field(1, b"w") + bytes_field(3, b"")), "map parameter"),
        (bytes_field(1, bytes_field(1, b"w")), "without name or tensor"),
        (value(b"\xff\xfe", [1], b"Int8", b"a"), "no text"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "damaged"),
        (b"\x0a" + b"\xff" * 20, "too long"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "bad.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        list(index_ckpt(str(path)))
    assert caught.value.where == str(path)


def test_a_missing_file_is_an_error_of_ours(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_ckpt(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_ckpt(tmp_path)


def test_what_cannot_be_stored_leaves_no_file(tmp_path):
    for bad in (np.array([1j]), np.array([object()])):
        with pytest.raises(CheckpointError, match="cannot be stored"):
            write_ckpt(tmp_path / "a.ckpt", [("ok", np.zeros(3)), ("bad", bad)])
    with pytest.raises(CheckpointError, match="w occurs twice"):
        write_ckpt(tmp_path / "a.ckpt", [("w", np.zeros(3)), ("w", np.zeros(3))])
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_ckpt(tmp_path / "no folder" / "a.ckpt", [])
    assert os.listdir(tmp_path) == []


def test_a_failure_keeps_the_file_that_was_there(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", [("w", np.ones(2))])
    with pytest.raises(CheckpointError):
        write_ckpt(tmp_path / "a.ckpt", [("w", np.array([1j]))])
    np.testing.assert_array_equal(read_ckpt(tmp_path / "a.ckpt")["w"].array(), np.ones(2))


def test_pages_given_back_under_way_are_read_again(tmp_path):
    path = tmp_path / "a.ckpt"
    write_ckpt(path, [(f"layer.{number}", np.full((40, 40), number)) for number in range(1000)])
    entries = list(index_ckpt(str(path)))
    assert entries == list(index_buffer(path.read_bytes(), str(path)))
    assert [entry["name"] for entry in entries] == [f"layer.{number}" for number in range(1000)]


def test_files_of_one_layout_are_told_from_those_that_differ_in_a_single_byte_of_it(tmp_path):
    """A file that is like the last one is not read again: each byte outside of the values must count."""
    path = tmp_path / "a.ckpt"
    values = {"one": np.arange(6, dtype=np.float32).reshape(2, 3), "two": np.array(7, np.int32)}
    write_ckpt(path, values.items())
    content = path.read_bytes()
    expected = list(index_ckpt(str(path)))
    inside = {n for entry in expected for at, size in entry["pieces"] for n in range(at, at + size)}

    def index(data):
        path.write_bytes(data)
        return list(index_ckpt(str(path)))

    for at in range(len(content)):
        assert index(content) == expected
        flipped = bytearray(content)
        flipped[at] ^= 1
        try:
            assert (index(flipped) == expected) == (at in inside), at
        except CheckpointError:
            assert at not in inside
    assert index(content + content.replace(b"one", b"six").replace(b"two", b"ten"))[:2] == expected
