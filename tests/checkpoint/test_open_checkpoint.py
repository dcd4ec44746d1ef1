import json

import numpy as np
import pytest

from orchestrator.agent.shard_ranges import index_shard
from orchestrator.checkpoint.files.tensor_files import write_ckpt, write_safetensors
from orchestrator.checkpoint.files.tensor_types import Tensor
from orchestrator.checkpoint.host_files import MappedFiles
from orchestrator.checkpoint.open_checkpoint import open_checkpoint
from orchestrator.checkpoint.spans import RegionSpans
from orchestrator.core.errors import CheckpointError
from tests.checkpoint.support import random


def values():
    return {"w": random((8, 6)), "b": random((6,), "float16"), "n": np.array(3, np.int32)}


def bytes_of(shard, name, part=None, size=1 << 20):
    held = shard.tensors[name]
    part = part or tuple((0, size) for size in held.spec.dims)
    with MappedFiles() as files:
        return b"".join(bytes(c) for c in files.chunks(held.path or shard.path, held, part, size))


def sharded(folder, index="model.safetensors.index.json"):
    """Two files and an index, as Hugging Face writes them; MindSpore's index is the map alone."""
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for number, names in enumerate((("w", "n"), ("b",)), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        write_safetensors(folder / file, [(name, values()[name]) for name in names])
        weight_map |= dict.fromkeys(names, file)
    table = {"metadata": {"total_size": 1}, "weight_map": weight_map} if "index" in index else weight_map
    (folder / index).write_text(json.dumps(table))
    return folder / index


def test_every_format_is_opened_alike(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", values().items(), piece_limit=40)
    write_safetensors(tmp_path / "a.safetensors", values().items())
    paths = [tmp_path / "a.ckpt", tmp_path / "a.safetensors", sharded(tmp_path / "hf"), tmp_path / "hf"]
    paths.append(sharded(tmp_path / "ms", "param_name_map.json"))
    for path in paths:
        shard = open_checkpoint(path)
        assert set(shard.tensors) == set(values())
        for name, value in values().items():
            assert shard.tensors[name].spec.dims == value.shape
            assert bytes_of(shard, name) == value.tobytes()


@pytest.mark.parametrize("piece_limit", [1 << 29, 40])
@pytest.mark.parametrize("size", [7, 64, 1 << 20])
def test_any_part_in_any_chunks(tmp_path, piece_limit, size):
    value = random((5, 4, 6), "int16")
    write_ckpt(tmp_path / "a.ckpt", [("w", value), ("note", "héllo")], piece_limit=piece_limit)
    shard = open_checkpoint(tmp_path / "a.ckpt")
    for part in (
        ((0, 5), (0, 4), (0, 6)),
        ((1, 3), (2, 4), (0, 6)),
        ((0, 5), (1, 2), (3, 5)),
        ((2, 2), (0, 4), (0, 6)),
    ):
        expected = value[tuple(slice(*span) for span in part)].tobytes()
        assert bytes_of(shard, "w", part, size) == expected
        assert RegionSpans.of_part(shard.tensors["w"].spec, part).nbytes == len(expected)
    assert bytes_of(shard, "note") == bytes(Tensor.of("héllo").data)


def test_a_file_that_has_become_shorter(tmp_path):
    write_ckpt(tmp_path / "a.ckpt", values().items())
    shard = open_checkpoint(tmp_path / "a.ckpt")
    content = (tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "a.ckpt").write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match="has become shorter: n is not all there"):
        bytes_of(shard, "n")


def changed(folder, change):
    path = sharded(folder)
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    return path


def test_records_in_place_of_a_checkpoint_are_not_to_be_downloaded_again(tmp_path):
    (tmp_path / "records.json").write_text('[{"instruction": "a", "output": "b"}]')
    with pytest.raises(CheckpointError, match=r"records.json: is no index of weights \(name a .ckpt, "):
        open_checkpoint(tmp_path / "records.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t["weight_map"].update(w="model-00009-of-00002.safetensors"),
            "of which 1 are missing: model-00009",
        ),
        (
            lambda t: t["weight_map"].update(x="model-00001-of-00002.safetensors"),
            "does not fit its shards: x",
        ),
        (lambda t: t["weight_map"].pop("n"), "does not fit its shards: n"),
        (lambda t: t["weight_map"].update(w="../a.safetensors"), "'../a.safetensors', which is no file name"),
        (lambda t: t["weight_map"].update(w=3), "names the shard 3, which is no file name"),
        (lambda t: t.update(weight_map=[]), "no index"),
        (lambda t: t.update(weight_map={}), "no index"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(changed(tmp_path / "hf", change))


def test_folders_and_foreign_files(tmp_path):
    (tmp_path / "x.json").write_text("[")
    with pytest.raises(CheckpointError, match="no index of weights"):
        open_checkpoint(tmp_path / "x.json")
    with pytest.raises(CheckpointError, match="without an index"):
        open_checkpoint(tmp_path)
    path = sharded(tmp_path)
    (tmp_path / "b.safetensors.index.json").write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="holds 2 indexes"):
        open_checkpoint(tmp_path)
    (tmp_path / "b.ckpt").write_bytes((tmp_path / "model-00001-of-00002.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="no MindSpore checkpoint"):
        open_checkpoint(tmp_path / "b.ckpt")
    (tmp_path / "c.safetensors").write_bytes(b"\x0a\x04w")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        list(index_shard(str(tmp_path / "c.safetensors")))
