import json
import zlib

import numpy as np
import pytest

from orchestrator.checkpoint.files.strategy_files import Strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt, write_safetensors
from orchestrator.checkpoint.files.tensor_types import Tensor
from orchestrator.core.errors import CheckpointError
from orchestrator.transfer.convert import plan_combine, write
from orchestrator.transfer.inspect import diff, inspect
from orchestrator.transfer.verify import verify
from tests.checkpoint.support import bloom, random, save_run
from tests.checkpoint.test_ckpt_file import sample


def saved(root, **options):
    second = {f"second.{name}": value for name, value in bloom(2, 2, seed=9).items()}
    return save_run(root, [bloom(2, 2), second], hosts=("checkpoint",), **options)


def test_inspect_lists_ranks_as_whole_tensors(tmp_path):
    run = saved(tmp_path / "output")
    listing = inspect(tmp_path / "output")
    rows = {row.name: row for row in listing.rows}
    assert listing.kind == "ranks"
    assert {"files": 8, "ranks": 8, "stages": 2, "epoch": 1, "step": 10}.items() <= listing.facts.items()
    row = rows["second.mapping.weight"]
    assert (row.shape, row.type, row.cut, row.stages, row.nbytes) == ((10, 12), "Float32", (1, 2), (1,), 480)
    assert rows["global_step"].cut == ()
    weights = [row for row in listing.rows if row.name in run.full]
    assert sum(row.nbytes for row in weights) == sum(value.nbytes for value in run.full.values())
    json.dumps(listing.to_json())


def test_inspect_lists_files_and_strategies(tmp_path):
    run = saved(tmp_path / "output")
    strategy = inspect(tmp_path / "output" / "strategy")
    assert (strategy.kind, strategy.facts) == ("strategy", {"ranks": 8, "stages": 2})
    assert {row.name: row.cut for row in strategy.rows}["projection.weight"] == (2, 1)
    one = inspect(tmp_path / "output" / "strategy" / "ckpt_strategy_rank_0.ckpt")
    assert one.facts["ranks"] == 4
    shard = inspect(run.shard(0))
    assert {row.name: row.shape for row in shard.rows}["mapping.weight"] == (10, 6)
    cut = inspect(run.shard(0), tmp_path / "output" / "strategy")
    assert {row.name: row.cut for row in cut.rows}["mapping.weight"] == (1, 2)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        inspect(tmp_path / "none")


def wrong(*arguments, **options):
    return [finding for finding in verify(*arguments, **options) if not finding.ok]


def test_a_sound_run_and_a_sound_file(tmp_path):
    saved(tmp_path / "output")
    findings = list(verify(tmp_path / "output"))
    assert all(finding.ok for finding in findings)
    assert findings[-1].what == "replicas hold the same bytes (36 slices compared)"
    write(plan_combine(tmp_path / "output", None), tmp_path / "a.ckpt")
    assert [finding.ok for finding in verify(tmp_path / "a.ckpt")] == [True]
    assert [finding.ok for finding in verify(tmp_path / "output" / "strategy")] == [True]


def with_checksum(path):
    content = path.read_bytes()
    path.write_bytes(content + b"crc_num" + zlib.crc32(content).to_bytes(10, "big"))


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def test_a_flipped_bit_is_found_by_the_checksum_or_by_a_replica(tmp_path):
    run = saved(tmp_path / "output")
    with_checksum(run.shard(0))
    flip(run.shard(0), 200)
    flip(run.shard(3), 200)
    found = wrong(tmp_path / "output")
    assert len(found) == 3
    assert found[0].where == str(run.shard(0))
    assert "the checksum does not fit" in found[0].what
    assert [f.what for f in found[1:]] == [
        "embedding_table: ranks 0, 2 do not hold the same bytes of one slice",
        "embedding_table: ranks 1, 3 do not hold the same bytes of one slice",
    ]


def test_every_damaged_file_is_told(tmp_path):
    run = saved(tmp_path / "output")
    run.shard(1).write_bytes(b"")
    run.shard(6).write_bytes(run.shard(6).read_bytes()[:-5])
    found = wrong(tmp_path / "output")
    assert [finding.where for finding in found] == [str(run.shard(1)), str(run.shard(6))]


def test_what_is_missing_is_told(tmp_path):
    run = saved(tmp_path / "output")
    run.shard(1).unlink()
    run.shard(3).unlink()
    (finding,) = wrong(tmp_path / "output")
    assert "lacks rank 1 or 3" in finding.what


def test_a_strategy_that_does_not_fit_is_told(tmp_path):
    saved(tmp_path / "output")
    layouts = {name: layout for name, (_, layout) in bloom(4, 1).items()}
    other = {f"{stage}-{name}": layout for stage in (0, 1) for name, layout in layouts.items()}
    write_strategy(tmp_path / "other.ckpt", Strategy(0, other))
    assert "do not hold the same bytes" in wrong(tmp_path / "output", tmp_path / "other.ckpt")[0].what
    (tmp_path / "output" / "strategy" / "ckpt_strategy_rank_1.ckpt").write_bytes(b"\x08\x01\x1a\xff")
    (finding,) = wrong(tmp_path / "output")
    assert "no strategy file" in finding.what


def test_a_checksum_of_safetensors_is_mindspore_s(tmp_path):
    tensors = {"w": random((3, 4)), "b": random((3,))}
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].tobytes(), zlib.crc32(name.encode(), value))
    path = tmp_path / "a.safetensors"
    for number, ok in ((value, True), (value ^ 1, False)):
        write_safetensors(path, tensors.items(), metadata={"format": "ms", "crc_num": str(number)})
        assert [finding.ok for finding in verify(path)] == [ok]


def two(tmp_path, a, b):
    write_ckpt(tmp_path / "a.ckpt", a)
    write_ckpt(tmp_path / "b.ckpt", b)
    return tmp_path / "a.ckpt", tmp_path / "b.ckpt"


def test_equal_files_do_not_differ(tmp_path):
    write_safetensors(tmp_path / "s.safetensors", sample().items())
    a, b = two(tmp_path, sample().items(), reversed(sample().items()))
    assert diff(a, b) == diff(a, tmp_path / "s.safetensors") == diff(a, a, atol=0.0) == []


def test_the_worst_tensor_is_named_first(tmp_path):
    base = {"x": np.zeros((2, 3), np.float32), "y": np.zeros(4, np.float32), "z": np.zeros(2, np.int8)}
    other = {name: value.copy() for name, value in base.items()}
    other["x"][1, 2], other["y"][0], other["y"][1] = 0.5, 0.25, -0.75
    a, b = two(tmp_path, base.items(), other.items())
    assert [(one.name, one.what) for one in diff(a, b)] == [
        ("y", "differs in 2 of 4 elements, by 0.75 at [1]"),
        ("x", "differs in 1 of 6 elements, by 0.5 at [1, 2]"),
    ]
    assert [one.name for one in diff(a, b, atol=0.6)] == ["y"]
    assert diff(a, b, atol=0.75) == []


def test_names_shapes_types_and_texts(tmp_path):
    a, b = two(
        tmp_path,
        [("only.a", np.ones(1)), ("s", np.ones((2, 3))), ("t", np.ones(3, np.float32)), ("note", "x")],
        [("only.b", np.ones(1)), ("s", np.ones((3, 2))), ("t", np.ones(3, np.float16)), ("note", "yz")],
    )
    assert {one.name: one.what for one in diff(a, b)} == {
        "only.a": f"is only in {a}",
        "only.b": f"is only in {b}",
        "s": "is Float64 [2, 3] and Float64 [3, 2]",
        "t": "is Float32 [3] and Float16 [3]",
        "note": "is another text",
    }
    assert "t" not in {one.name for one in diff(a, b, atol=0.0)}


def test_values_that_are_no_numbers(tmp_path):
    one = np.array([np.nan, np.inf, 0.0, 1.0], np.float32)
    a, b = two(tmp_path, [("w", one)], [("w", np.array([np.nan, np.inf, -0.0, 1.0], np.float32))])
    (difference,) = diff(a, b)
    assert (difference.what, difference.largest) == ("has other bits of the same values (-0, NaN)", 0.0)
    assert diff(a, b, atol=0.0) == []
    a, b = two(tmp_path, [("w", one)], [("w", np.array([1.0, -np.inf, 0.0, 1.0], np.float32))])
    (difference,) = diff(a, b, atol=1e9)
    assert difference.what == "differs in 2 of 4 elements, by inf at [0]"


def test_bfloat16_is_compared_by_value(tmp_path):
    bits = np.array([0x3F80, 0x4000], np.uint16)
    a, b = two(
        tmp_path,
        [("w", Tensor.of(bits, "BFloat16"))],
        [("w", np.array([1.0, 2.5], np.float32))],
    )
    assert diff(a, b, atol=0.5) == []
    assert [one.what for one in diff(a, b, atol=0.4)] == ["differs in 1 of 2 elements, by 0.5 at [1]"]


def test_the_last_element_of_a_large_tensor(tmp_path):
    value = np.zeros(9_000_000, np.int8)
    other = value.copy()
    other[-1] = 3
    a, b = two(tmp_path, [("w", value)], [("w", other)])
    assert [one.what for one in diff(a, b)] == ["differs in 1 of 9,000,000 elements, by 3 at [8999999]"]
    assert read_ckpt(a)["w"].nbytes == 9_000_000
