from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from orchestrator.checkpoint.files.tensor_files import write_ckpt, write_safetensors
from orchestrator.checkpoint.open_checkpoint import find_weights, holds_weights
from orchestrator.core.errors import CheckpointError

ONE = np.arange(3, dtype=np.float32)
TWO = np.arange(4, dtype=np.float16)


def sharded(folder, weight_map=None, index="model.safetensors.index.json"):
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "a.safetensors", [("one", ONE)])
    write_safetensors(folder / "b.safetensors", [("two", TWO)])
    content = {
        "weight_map": {"one": "a.safetensors", "two": "b.safetensors"} if weight_map is None else weight_map
    }
    (folder / index).write_text(json.dumps(content))
    return folder


def bytes_of(tensor):
    data = Path(tensor.path).read_bytes()
    return b"".join(data[offset : offset + length] for offset, length in tensor.spans)


def test_every_form_gives_the_same_tensors(tmp_path):
    write_ckpt(tmp_path / "x.ckpt", [("one", ONE), ("two", TWO)], piece_limit=8)
    write_safetensors(tmp_path / "x.safetensors", [("one", ONE), ("two", TWO)])
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(tmp_path / "x.safetensors", single / "model.safetensors")
    loose = tmp_path / "loose"
    loose.mkdir()
    write_safetensors(loose / "model-1.safetensors", [("one", ONE)])
    write_safetensors(loose / "model-2.safetensors", [("two", TWO)])
    for path in (tmp_path / "x.ckpt", tmp_path / "x.safetensors", single, loose, sharded(tmp_path / "s")):
        assert holds_weights(path)
        found = find_weights(path)
        assert list(found) == ["one", "two"]
        assert bytes_of(found["one"]) == ONE.tobytes() and bytes_of(found["two"]) == TWO.tobytes()
        assert found["two"].spec.dims == (4,) and found["two"].spec.dtype == "Float16"


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (
            {"one": "a.safetensors", "two": "c.safetensors"},
            "1 are missing: c.safetensors (download them again)",
        ),
        ({"one": "a.safetensors"}, None),
        ({"one": "b.safetensors", "two": "a.safetensors"}, "does not fit its shards: one, two"),
        ({"one": "a.safetensors", "two": "b.safetensors", "three": "a.safetensors"}, "fit its shards: three"),
        ({"one": "../a.safetensors"}, "names the shard '../a.safetensors', which is no file name"),
        ({"one": 3}, "names the shard 3, which is no file name"),
        ([], "is no index of weights (download it again)"),
    ],
)
def test_indexes_that_do_not_fit(tmp_path, weight_map, message):
    folder = sharded(tmp_path / "s", weight_map)
    if message is None:  # a shard that the index does not name is none of the model's
        assert list(find_weights(folder)) == ["one"]
        return
    with pytest.raises(CheckpointError) as caught:
        find_weights(folder)
    assert message in str(caught.value)


def test_what_holds_no_weights(tmp_path):
    def refused(path):
        with pytest.raises(CheckpointError) as caught:
            find_weights(path)
        return str(caught.value)

    assert "there is no such file or folder" in refused(tmp_path / "none")
    assert "put model.safetensors, pytorch_model.bin" in refused(tmp_path)
    assert not holds_weights(tmp_path) and not holds_weights(tmp_path / "none")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert "is no weight file: .gguf (known are .ckpt, .safetensors, .bin" in refused(tmp_path / "x.gguf")
    for name in ("a.ckpt", "b.ckpt"):
        write_ckpt(tmp_path / name, [("one", ONE)])
    assert "holds 2 .ckpt files (name one of them)" in refused(tmp_path)
    (tmp_path / "pytorch_model.bin.index.json").write_text("{")
    assert "pytorch_model.bin.index.json: is no index of weights" in refused(tmp_path)


def test_a_tensor_in_two_shards(tmp_path):
    folder: Path = tmp_path / "s"
    folder.mkdir()
    for number in (1, 2):
        write_safetensors(folder / f"model-{number}.safetensors", [("one", ONE)])
    with pytest.raises(CheckpointError, match=r"one is in model-1\.safetensors too"):
        find_weights(folder)
