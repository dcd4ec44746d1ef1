from __future__ import annotations

import pickletools
import zipfile

import numpy as np
import pytest

from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.files.torch_reader import index_torch
from orchestrator.checkpoint.files.torch_writer import lay_out_torch
from orchestrator.checkpoint.placed_file import PlacedFile
from orchestrator.checkpoint.spans import StridedSpan
from orchestrator.core.errors import CheckpointError

# What `torch.load(weights_only=True)` of PyTorch 2.13 interprets, of what is written here: it was given such
# files, also one of more than 4 GB, and gave back every bit.
OPCODES = {
    *("PROTO", "GLOBAL", "EMPTY_TUPLE", "REDUCE", "MARK", "BINUNICODE", "BINPERSID", "BININT", "LONG1"),
    *("TUPLE", "NEWFALSE", "SETITEMS", "STOP"),
}
SPECS = [
    Spec("word.weight", (3, 5), "Float32"),
    Spec("half", (7,), "Float16"),
    Spec("brain", (2, 1, 3), "BFloat16"),
    Spec("scalar", (), "Int64"),
    Spec("empty", (0, 4), "Float32"),
]


def written(path, specs, data):
    layout = lay_out_torch(specs)
    file = PlacedFile(path, layout)
    for place, value in zip(layout.spans, data, strict=True):
        file.put(place, [StridedSpan(0, len(value), len(value), 1)], memoryview(value))
    file.seal()
    file.close()
    return layout


def test_what_is_written_is_read_back_and_is_a_sound_zip(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    data = [np.random.default_rng(1).bytes(spec.nbytes) for spec in SPECS]
    layout = written(path, SPECS, data)
    assert path.stat().st_size == layout.size
    held = index_torch(path)
    assert [item.spec for item in held.values()] == SPECS
    content = path.read_bytes()
    for item, value in zip(held.values(), data, strict=True):
        ((offset, length),) = item.spans
        assert content[offset : offset + length] == value
        assert offset % 64 == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[:2] == ["archive/data.pkl", "archive/byteorder"] and names[-1] == "archive/version"
        assert archive.read("archive/version") == b"3\n"
        opcodes = {opcode.name for opcode, *_ in pickletools.genops(archive.read("archive/data.pkl"))}
    assert opcodes <= OPCODES


def test_beyond_four_gigabytes(tmp_path):
    specs = [Spec("large", (1 << 31, 2), "Float16"), Spec("small", (3,), "Float32")]
    path = tmp_path / "large.bin"
    layout = lay_out_torch(specs)
    with open(path, "wb") as file:  # a file of holes: nothing but the frames is on the disk
        for offset, frame in layout.frames:
            file.seek(offset)
            file.write(frame)
    held = index_torch(path)
    assert [item.spec for item in held.values()] == specs
    assert [item.spans for item in held.values()] == list(layout.spans)
    with zipfile.ZipFile(path) as archive:
        assert [info.file_size for info in archive.infolist()][2:4] == [8 << 30, 12]
        assert archive.infolist()[3].header_offset > 8 << 30


def test_a_text_has_no_storage():
    with pytest.raises(CheckpointError, match="note is str, which PyTorch has no storage for"):
        lay_out_torch([Spec("note", (3,), "str")])
