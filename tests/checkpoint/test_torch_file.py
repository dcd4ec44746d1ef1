from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import pytest

from orchestrator.checkpoint.files.torch_reader import index_torch
from orchestrator.core.errors import CheckpointError

FILES = Path(__file__).parent / "torch_files"  # see make.py there


def values(path, held, dtype):
    data = path.read_bytes()
    offset, length = held.spans[0]
    return np.frombuffer(data[offset : offset + length], dtype).reshape(held.spec.dims)


@pytest.mark.parametrize("name", ["state.bin", "protocol4.bin"])
def test_files_of_pytorch_are_read_without_it(name):
    path = FILES / name
    held = index_torch(path)
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(values(path, held["float32"], "<f4"), table)
    np.testing.assert_array_equal(values(path, held["view"], "<f4"), table[1:])
    np.testing.assert_array_equal(values(path, held["float16"], "<f2"), np.arange(6))
    assert held["tied"].spans == held["float16"].spans
    assert held["bfloat16"].spec.dtype == "BFloat16"
    np.testing.assert_array_equal(values(path, held["bfloat16"], "<u2"), [0x3F80, 0xC020, 0x4049])
    np.testing.assert_array_equal(values(path, held["int64"], "<i8"), [[1], [-2]])
    assert values(path, held["scalar"], "<f4") == 7 and held["scalar"].spec.dims == ()
    assert held["empty"].spec.dims == (0, 4)
    np.testing.assert_array_equal(values(path, held["parameter"], "<f4"), [1, 1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("legacy.bin", "is in PyTorch's format from before version 1.6 (load and save it once"),
        ("strided.bin", "w is not stored in C order (save it with .contiguous())"),
        ("nested.bin", "its entry 'epoch' is no tensor (save model.state_dict())"),
        ("module.bin", "is refused: the pickle names torch.nn.modules.linear.Linear"),
    ],
)
def test_files_that_are_no_table_of_tensors(name, message):
    with pytest.raises(CheckpointError) as caught:
        index_torch(FILES / name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def torch_zip(path, data, *, storage=b"\0" * 8, compression=zipfile.ZIP_STORED, **more):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", storage)
        for name, content in more.items():
            archive.writestr(f"archive/{name}", content)
    return path


class Runs:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(canary):
    command = f"touch {canary}"
    yield "os.system", pickle.dumps({"w": Runs(os.system, command)}, 2)
    yield "eval", pickle.dumps({"w": Runs(eval, f"open({str(canary)!r}, 'w')")}, 2)
    yield "stack global", pickle.dumps({"w": Runs(os.system, command)}, 4)
    yield "open", pickle.dumps(Runs(io.open, str(canary), "w"), 2)
    yield "inst", b"(S'" + command.encode() + b"'\nios\nsystem\n."
    yield "obj", b"(cos\nsystem\nS'" + command.encode() + b"'\no."
    yield "newobj", b"cos\nsystem\n\x8c\x01a\x85\x81."
    yield "attribute", b"\x80\x04\x8c\x0ctorch._utils\x8c\nos.system\x93\x8c\x01a\x85R."
    yield "extension", b"\x80\x02\x82\x01."
    yield "rebuilder of dunder", b"\x80\x02ctorch\n__builtins__\n."
    yield "buffers", b"\x80\x05\x97."


@pytest.mark.parametrize("name", [name for name, _ in attacks("x")])
def test_a_malicious_pickle_runs_nothing(tmp_path, name):
    canary = tmp_path / "canary"
    data = dict(attacks(canary))[name]
    path = torch_zip(tmp_path / "evil.bin", data)
    with pytest.raises(CheckpointError) as caught:
        index_torch(path)
    assert "is refused" in str(caught.value) or "damaged" in str(caught.value)
    assert not canary.exists()


def test_the_attacks_would_work_on_a_pickle_that_is_run(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(dict(attacks(canary))["os.system"])
    assert canary.exists()


def test_state_and_depth_are_harmless(tmp_path):
    deep = b"\x80\x02}N" + b"\x85" * 200_000 + b"K\x01s."  # {((((None,),),),): 1}
    with pytest.raises(CheckpointError, match="no table of names"):
        index_torch(torch_zip(tmp_path / "deep.bin", deep))
    state = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x01aK\x01sb."
    with pytest.raises(CheckpointError, match="refused"):
        index_torch(torch_zip(tmp_path / "state.bin", state))
    large_memo = b"\x80\x02}r\xff\xff\xff\xff."
    assert index_torch(torch_zip(tmp_path / "memo.bin", large_memo)) == {}


def tensor_pickle(offset=0, dims=(2,), strides=(1,), elements=2, kind="FloatStorage", key="0"):
    """{"w": tensor}, as PyTorch writes it."""

    def number(value):
        return b"J" + value.to_bytes(4, "little", signed=True)

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def row(values):
        return b"(" + b"".join(number(value) for value in values) + b"t"

    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu")
    tensor = storage + number(elements) + b"tQ" + number(offset) + row(dims) + row(strides)
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + tensor + hooks + b"tRs."


def test_tensors_must_lie_in_their_storage(tmp_path):
    def refused(**tensor):
        with pytest.raises(CheckpointError) as caught:
            index_torch(torch_zip(tmp_path / "w.bin", tensor_pickle(**tensor)))
        return str(caught.value)

    assert index_torch(torch_zip(tmp_path / "w.bin", tensor_pickle()))["w"].spec.dims == (2,)
    assert "w reaches over the end of its storage" in refused(offset=1)
    assert "the storage of w has 8 bytes" in refused(elements=3)
    assert "not stored in C order" in refused(dims=(1, 2), strides=(1, 0))
    assert "the bytes of w are missing" in refused(key="7")
    assert "the bytes of w are missing" in refused(key="../../data.pkl")
    assert "impossible shape" in refused(dims=(-2,))
    assert "the pickle names torch.QInt8Storage" in refused(kind="QInt8Storage")


def test_archives_that_are_damaged_or_foreign(tmp_path):
    whole = (FILES / "state.bin").read_bytes()
    path = tmp_path / "cut.bin"
    for length in (1, 4, 100, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged or no PyTorch file"):
            index_torch(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="the file is empty"):
        index_torch(path)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        index_torch(tmp_path / "none.bin")
    packed = torch_zip(path, tensor_pickle(), compression=zipfile.ZIP_DEFLATED, storage=b"\0" * 8)
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        index_torch(packed)
    with pytest.raises(CheckpointError, match="big-endian"):
        index_torch(torch_zip(path, tensor_pickle(), byteorder=b"big"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "dear")
    with pytest.raises(CheckpointError, match=r"there is no data\.pkl"):
        index_torch(path)


def test_any_damage_to_the_pickle_is_one_error(tmp_path):
    good = tensor_pickle()
    assert len(list(pickletools.genops(good))) > 20
    random = np.random.default_rng(3)
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(random.integers(1, 4)):
            bad[random.integers(len(bad))] = random.integers(256)
        path = torch_zip(tmp_path / "w.bin", bytes(bad[: random.integers(1, len(bad) + 1)]))
        try:
            index_torch(path)
        except CheckpointError as error:
            assert "\n" not in str(error)
