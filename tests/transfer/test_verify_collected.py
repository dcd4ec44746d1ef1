"""A collected checkpoint against the checksums of its manifest."""

import json

import pytest

from orchestrator.transfer.verify import verify
from tests.checkpoint.support import bloom, save_run
from tests.transfer.test_collect import collected
from tests.transfer.test_forms import MODEL
from tests.transfer.test_forms import saved as saved_bloom
from tests.transfer.test_inspect import flip


def wrong(path):
    return [finding.what for finding in verify(path) if not finding.ok]


def one(tmp_path, name="a.ckpt", **options):
    run = save_run(tmp_path / "run", [bloom(2, 2)])
    collected(run, tmp_path / name, segment_bytes=100, **options)
    return tmp_path / name


@pytest.mark.parametrize("options", [{}, {"dtype": "BFloat16"}, {"with_optimizer": True}])
@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_every_byte_counts(tmp_path, name, options):
    path = one(tmp_path, name, format=name[2:], **options)
    assert not wrong(path)
    assert list(verify(path))[-1].what.startswith("holds what was collected: step 10 of a run")
    size = path.stat().st_size
    for at in range(0, size, max(1, size // 60)):
        flip(path, at)
        assert wrong(path), at
        flip(path, at)
    assert not wrong(path)


def test_a_file_of_another_size_a_missing_one_and_a_damaged_manifest_are_told(tmp_path):
    path = one(tmp_path)
    manifest = tmp_path / "a.ckpt.manifest.json"
    content = path.read_bytes()
    path.write_bytes(content + b"x")
    assert any("bytes" in what and "were collected" in what for what in wrong(path))
    path.write_bytes(content)
    told = json.loads(manifest.read_text())
    for change in (
        lambda tensor: tensor["parts"][0].update(region=[[0, 10**9], [0, 10]]),
        lambda tensor: tensor["parts"][0].update(crc32=["00000000"] * 1000),
        lambda tensor: tensor.update(shape=[1]),
        lambda tensor: tensor.update(dtype="Float1"),
    ):
        changed = json.loads(manifest.read_text())
        change(changed["tensors"]["embedding_table"])
        manifest.write_text(json.dumps(changed))
        assert wrong(path)
        manifest.write_text(json.dumps(told))
    manifest.write_text("{}")
    assert any("no manifest" in what for what in wrong(path))


@pytest.mark.parametrize("dtype", [None, "BFloat16"])
def test_manifests_of_earlier_versions_are_checked_as_well(tmp_path, dtype):
    path = one(tmp_path, dtype=dtype)
    manifest = tmp_path / "a.ckpt.manifest.json"
    told = json.loads(manifest.read_text())
    for key in ("beside", "passed_over", "left_aside"):
        del told[key]
    for tensor in told["tensors"].values():
        tensor.pop("stored", None)
    manifest.write_text(json.dumps(told, separators=(",", ":")))
    assert not wrong(path)
    flip(path, path.stat().st_size - 9)
    assert wrong(path)


def test_a_folder_for_transformers_is_checked_and_an_older_ones_is_said_not_to_be(tmp_path):
    run = saved_bloom(tmp_path, 2)
    collected(run, tmp_path / "out", format="huggingface", model=MODEL, segment_bytes=100)
    assert not wrong(tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.safetensors")
    for at in range(file.stat().st_size - 1, 3000, -997):
        flip(file, at)
        assert wrong(tmp_path / "out"), at
        flip(file, at)
    manifest = tmp_path / "out.manifest.json"
    told = json.loads(manifest.read_text())
    for tensor in told["tensors"].values():
        del tensor["place"]
    manifest.write_text(json.dumps(told))
    assert "were not compared" in list(verify(tmp_path / "out"))[-1].what
