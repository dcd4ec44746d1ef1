from orchestrator.checkpoint.assemble import assemble
from orchestrator.checkpoint.cut.coverage import why_left_out
from orchestrator.checkpoint.shard_index import ShardIndex


def entries(offset=64):
    names = {"w": ("Float32", 24), "adam_m.w": ("Float32", 24), "note": ("str", 8)}
    return (
        {"name": name, "dims": [2, 3] if size == 24 else [], "dtype": dtype, "pieces": [[offset, size]]}
        for name, (dtype, size) in names.items()
    )


def test_what_is_not_wanted_is_kept_by_name_only():
    index = ShardIndex(lambda name, dtype: why_left_out(name, dtype, False, True))
    shard = index.shard(0, "a", "rank_0.ckpt", entries())
    assert list(shard.tensors) == ["w"]
    assert dict(shard.skipped) == {
        "adam_m.w": "optimizer state",
        "note": "kept by the training loop, not a weight",
    }
    whole = assemble([shard], {})
    assert [tensor.spec.name for tensor in whole.tensors] == ["w"]
    assert whole.skipped == shard.skipped


def test_what_is_equal_in_two_shards_is_kept_once():
    index = ShardIndex()
    one, two, other = (
        index.shard(rank, "a", f"rank_{rank}.ckpt", entries(offset))
        for rank, offset in enumerate((64, 64, 128))
    )
    assert one.tensors["w"] is two.tensors["w"]
    assert other.tensors["w"].spans == ((128, 24),)
    assert one.tensors["note"].spec.text_bytes == 8
