import dataclasses
import json
import math
import os
import resource
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint.atomic import new_folder
from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.cut.slices import Layout, cuts
from orchestrator.checkpoint.files.strategy_files import Strategy, write_strategy
from orchestrator.checkpoint.files.tensor_files import read_ckpt, read_safetensors, write_ckpt
from orchestrator.checkpoint.files.tensor_types import Tensor
from orchestrator.core.errors import CheckpointError
from orchestrator.transfer.convert import plan_combine, plan_split, plan_transform, write
from orchestrator.transfer.inspect import diff
from tests.checkpoint.support import bloom, random, save_run
from tests.checkpoint.test_slices import layouts


def two_stages(root, **options):
    first, second = bloom(2, 2), {f"second.{name}": value for name, value in bloom(2, 2, seed=9).items()}
    shared = {"embedding_table": first["embedding_table"]}
    return save_run(root, [first, second | shared], hosts=("checkpoint",), **options)


def read(path):
    return read_safetensors(path) if path.suffix == ".safetensors" else read_ckpt(path)


def check(path, full):
    tensors = read(path)
    assert set(tensors) == set(full)
    for name, value in full.items():
        np.testing.assert_array_equal(tensors[name].array(), value)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_combine_reads_what_mindformers_leaves(tmp_path, name):
    run = two_stages(tmp_path / "output")
    format = name.split(".")[1]
    conversion = plan_combine(tmp_path / "output" / "checkpoint", None, format=format)
    write(conversion, tmp_path / name)
    check(tmp_path / name, run.full)
    assert conversion.sizes == [(tmp_path / name).stat().st_size]
    reasons = {"optimizer state": 10, "kept by the training loop, not a weight": 1}
    assert {reason: count for reason, (count, _) in conversion.left_out.items()} == reasons
    assert sorted(os.listdir(tmp_path)) == [name, "output"]


def test_combine_into_several_files_with_an_index(tmp_path):
    run = two_stages(tmp_path / "output")
    conversion = plan_combine(tmp_path / "output", None, format="safetensors", max_shard_bytes=1000)
    write(conversion, tmp_path / "hf")
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(run.full)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in run.full.values())
    files = {name: read_safetensors(tmp_path / "hf" / name) for name in set(index["weight_map"].values())}
    assert len(files) > 2
    for name, value in run.full.items():
        np.testing.assert_array_equal(files[index["weight_map"][name]][name].array(), value)
    for tensors in files.values():
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 1000
    write(plan_combine(tmp_path / "output", None), tmp_path / "one.ckpt")
    assert diff(tmp_path / "hf", tmp_path / "one.ckpt") == []
    with pytest.raises(CheckpointError, match="only safetensors"):
        plan_combine(tmp_path / "output", None, max_shard_bytes=1000)


@pytest.mark.parametrize("format", ["ckpt", "safetensors"])
def test_split_then_combine_gives_the_file_back(tmp_path, format):
    run = two_stages(tmp_path / "run")
    write_ckpt(tmp_path / "whole.ckpt", [*run.full.items(), ("global_step", np.array(3, np.int32))])
    for with_optimizer in (False, True):
        shards, again = tmp_path / f"shards{with_optimizer}", tmp_path / f"again{with_optimizer}.ckpt"
        strategy = tmp_path / "run" / "strategy"
        conversion = plan_split(
            tmp_path / "whole.ckpt", strategy, with_optimizer=with_optimizer, format=format
        )
        write(conversion, shards)
        assert sorted(os.listdir(shards)) == [f"rank_{rank}" for rank in range(8)]
        assert os.listdir(shards / "rank_3") == [f"checkpoint_rank_3-0_0.{format}"]
        write(plan_combine(shards, strategy, with_optimizer=with_optimizer), again)
        check(again, run.full | ({"global_step": np.array(3)} if with_optimizer else {}))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(source=layouts(), target=layouts(), data=st.data())
def test_any_layout_becomes_any_other(tmp_path_factory, source, target, data):
    axes = min(len(source.tensor_map), len(target.tensor_map))
    source, target = (
        dataclasses.replace(one, tensor_map=one.tensor_map[:axes], opt_weight_shard_size=0)
        if len(one.tensor_map) > axes
        else one
        for one in (source, target)
    )
    shape = [math.lcm(*pair) for pair in zip(pieces(source), pieces(target), strict=True)]
    shape = tuple(size * data.draw(st.integers(1, 2)) for size in shape)
    root = tmp_path_factory.mktemp("any")
    value = random(shape, data.draw(st.sampled_from(["int8", "float16", "float64"])))
    save_run(root / "a", [{"w": (value, source)}], hosts=("checkpoint",))
    target_files = strategy(root / "t", **{"w": target, "adam_m.w": target})
    write(plan_transform(root / "a", None, target_files, with_optimizer=True), root / "b")
    write(plan_combine(root / "b", target_files, with_optimizer=True), root / "c.ckpt")
    check(root / "c.ckpt", {"w": value, "adam_m.w": value.astype("float32"), "global_step": np.array(10)})


def pieces(layout):
    first, *rest = cuts(layout)[:-1]
    return (first * cuts(layout)[-1], *rest)


def test_texts_and_scalars_travel(tmp_path):
    tensors = [
        ("w", random((4, 4))),
        ("note", "héllo"),
        ("bf", Tensor.of(np.ones((4, 2), np.uint16), "BFloat16")),
    ]
    write_ckpt(tmp_path / "whole.ckpt", tensors)
    (tmp_path / "t").mkdir()
    write_strategy(
        tmp_path / "t" / "s.ckpt", Strategy(0, {"w": Layout((2,), (0, -1)), "bf": Layout((2,), (0, -1))})
    )
    write(plan_split(tmp_path / "whole.ckpt", tmp_path / "t", with_optimizer=True), tmp_path / "s")
    shard = read_ckpt(tmp_path / "s" / "rank_1" / "checkpoint_rank_1-0_0.ckpt")
    assert (shard["note"].text(), shard["bf"].dtype, shard["bf"].dims) == ("héllo", "BFloat16", (2, 2))
    write(plan_combine(tmp_path / "s", tmp_path / "t", with_optimizer=True), tmp_path / "b.ckpt")
    assert diff(tmp_path / "b.ckpt", tmp_path / "whole.ckpt") == []


def test_a_replica_stands_in_and_is_told(tmp_path):
    run = two_stages(tmp_path / "output", steps=((1, 9), (1, 10)))
    run.shard(1).unlink()
    conversion = plan_combine(tmp_path / "output", None)
    assert (conversion.step, conversion.notes) == (10, ("rank 1: no file of this step; a replica's is used",))
    run.shard(3).unlink()
    conversion = plan_combine(tmp_path / "output", None)
    assert conversion.step == 9
    assert conversion.notes == (
        "epoch 1 step 10 is newer but not complete, it lacks rank 1 or 3 (for embedding_table): "
        "epoch 1 step 9 was taken",
    )
    with pytest.raises(CheckpointError, match="step 10 lacks rank 1 or 3"):
        plan_combine(tmp_path / "output", None, step=10)


def test_names_the_checkpoint_lacks_are_told(tmp_path):
    run = two_stages(tmp_path / "run")
    del run.full["mapping.weight"]
    write_ckpt(tmp_path / "whole.ckpt", run.full.items())
    (note,) = plan_split(tmp_path / "whole.ckpt", tmp_path / "run" / "strategy").notes
    assert note.endswith("strategy names 1 parameters that the checkpoint lacks: mapping.weight")


def strategy(folder, **layouts):
    folder.mkdir()
    write_strategy(folder / "s.ckpt", Strategy(0, layouts))
    return folder


@pytest.mark.parametrize(
    ("layouts", "with_optimizer", "message"),
    [
        ({"w": Layout((3,), (0, -1))}, False, r"w does not fit the strategy: .*\[4, 4\] cannot be cut into"),
        ({"w": Layout((2,), (0,))}, False, r"w does not fit the strategy: shape \[4, 4\] has 2 axes"),
        ({"v": Layout((2,), (0,))}, False, "names none of the checkpoint's tensors"),
        ({"w": Layout((2,), (0, -1))}, True, "how w is cut but not how adam_m.w is"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused(tmp_path, layouts, with_optimizer, message):
    write_ckpt(tmp_path / "whole.ckpt", [("w", random((4, 4))), ("adam_m.w", random((4, 4)))])
    with pytest.raises(CheckpointError, match=message) as caught:
        plan_split(
            tmp_path / "whole.ckpt", strategy(tmp_path / "t", **layouts), with_optimizer=with_optimizer
        )
    assert caught.value.where == str(tmp_path / "t")


def break_it(run, kind, rank):
    path = run.shard(rank)
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "short": content[:-9], "foreign": b"PK\x03\x04" + content, "bit": flipped(content)}[
            kind
        ]
    )
    return path


def flipped(content):
    at = content.index(b"Float32")
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("kind", "message"),
    [("empty", "empty"), ("short", "damaged"), ("foreign", "damaged"), ("bit", "Gloat32|not supported")],
)
def test_a_damaged_shard_is_named_and_nothing_is_written(tmp_path, kind, message):
    run = two_stages(tmp_path / "output")
    replica = break_it(run, kind, 2)
    (note, absent) = plan_combine(tmp_path / "output", None).notes
    assert str(replica) in note and note.endswith("left aside") and absent.startswith("rank 2: no file")
    path = break_it(run, kind, 0)
    with pytest.raises(CheckpointError, match=message) as caught:
        plan_combine(tmp_path / "output", None)
    assert caught.value.where == str(path)


def test_what_is_not_there_or_not_meant(tmp_path):
    two_stages(tmp_path / "output")
    cases = [
        (lambda: plan_combine(tmp_path / "none", None), "no such file or folder"),
        (lambda: plan_combine(tmp_path, None), "holds no checkpoints"),
        (lambda: plan_combine(tmp_path / "output", tmp_path / "none"), "no such file or folder"),
        (
            lambda: plan_split(tmp_path / "output" / "checkpoint", tmp_path / "output" / "strategy"),
            "transform",
        ),
    ]
    for call, message in cases:
        with pytest.raises(CheckpointError, match=message):
            call()


def test_ranks_that_name_different_tensors(tmp_path):
    run = two_stages(tmp_path / "output")
    path = run.shard(1)
    tensors = read_ckpt(path)
    write_ckpt(path, [(name + "x" if name == "mapping.bias" else name, one) for name, one in tensors.items()])
    write_ckpt(run.shard(3), list(read_ckpt(path).items()))
    with pytest.raises(CheckpointError, match=r"mapping.bias: no shard of ranks 1 or 3"):
        plan_combine(tmp_path / "output", None)


def test_unnumbered_files_as_mindspore_s_transformation_names_them(tmp_path):
    run = save_run(tmp_path / "run", [bloom(1, 2)], hosts=("checkpoint",))
    for rank in range(2):
        run.shard(rank).rename(tmp_path / "run" / "checkpoint" / f"rank_{rank}" / f"checkpoint_{rank}.ckpt")
    write(plan_combine(tmp_path / "run", None), tmp_path / "a.ckpt")
    check(tmp_path / "a.ckpt", run.full)
    write_ckpt(tmp_path / "run" / "checkpoint" / "rank_0" / "b.ckpt", run.full.items())
    with pytest.raises(CheckpointError, match=r"b.ckpt and checkpoint_0.ckpt do not tell which is newer"):
        plan_combine(tmp_path / "run", None)


def test_no_room_is_told_before_anything_is_written(tmp_path):
    two_stages(tmp_path / "output")
    for conversion, output in (
        (plan_combine(tmp_path / "output", None), tmp_path / "a.ckpt"),
        (plan_transform(tmp_path / "output", None, tmp_path / "output" / "strategy"), tmp_path / "b"),
    ):
        with pytest.raises(CheckpointError, match="GB free"):
            write(conversion, output, CopyOptions(free=lambda folder: 1000))
    assert os.listdir(tmp_path) == ["output"]


def test_an_interruption_leaves_nothing_under_the_final_name(tmp_path):
    two_stages(tmp_path / "output")
    write(plan_combine(tmp_path / "output", None), tmp_path / "a.ckpt")
    before = (tmp_path / "a.ckpt").stat()

    def interrupt(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    for conversion, output in (
        (plan_combine(tmp_path / "output", None), tmp_path / "a.ckpt"),
        (plan_transform(tmp_path / "output", None, tmp_path / "output" / "strategy"), tmp_path / "b"),
    ):
        with pytest.raises(KeyboardInterrupt):
            write(conversion, output, report=Report(interrupt))
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "output"]
    now = (tmp_path / "a.ckpt").stat()
    assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_folder_appears_whole_and_never_over_another(tmp_path):
    (tmp_path / ".new.part").mkdir()
    (tmp_path / ".new.part" / "left").write_text("by a killed process")
    (tmp_path / "new").mkdir()
    with new_folder(tmp_path / "new") as building:
        (building / "x").write_text("x")
        with (
            pytest.raises(CheckpointError, match="being written by another process"),
            new_folder(tmp_path / "new"),
        ):
            pass
    assert os.listdir(tmp_path) == ["new"]
    assert os.listdir(tmp_path / "new") == ["x"]
    with pytest.raises(CheckpointError, match="is not empty"), new_folder(tmp_path / "new"):
        pass
    with pytest.raises(CheckpointError, match="is there and no folder"), new_folder(tmp_path / "new" / "x"):
        pass


def test_two_threads_write_two_folders(tmp_path):
    run = two_stages(tmp_path / "output")
    write_ckpt(tmp_path / "whole.ckpt", run.full.items())
    conversion = plan_split(tmp_path / "whole.ckpt", tmp_path / "output" / "strategy")
    threads = [threading.Thread(target=write, args=(conversion, tmp_path / f"out{n}")) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(2):
        write(plan_combine(tmp_path / f"out{n}", tmp_path / "output" / "strategy"), tmp_path / f"{n}.ckpt")
    assert (tmp_path / "0.ckpt").read_bytes() == (tmp_path / "1.ckpt").read_bytes()


def test_a_shard_that_changes_under_way_is_named_and_nothing_is_written(tmp_path):
    run = two_stages(tmp_path / "output")

    def rewrite(done, total):
        if done:
            run.shard(0).chmod(0o600)
            run.shard(0).write_bytes(run.shard(0).read_bytes())

    options = CopyOptions(segment_bytes=64, streams_per_host=1)
    with pytest.raises(CheckpointError, match="has changed") as caught:
        write(plan_combine(tmp_path / "output", None), tmp_path / "a.ckpt", options, Report(rewrite))
    assert caught.value.where == str(run.shard(0))
    assert os.listdir(tmp_path) == ["output"]


def test_more_ranks_than_files_may_be_open(tmp_path):
    ranks, value = 256, random((256, 3))
    write_ckpt(tmp_path / "whole.ckpt", [("w", value), ("empty", np.zeros((0, 2), np.float32))])
    conversion = plan_split(tmp_path / "whole.ckpt", strategy(tmp_path / "t", w=Layout((ranks,), (0, -1))))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, limits[1]))
    try:
        write(conversion, tmp_path / "s")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for rank in range(ranks):
        shard = read_ckpt(tmp_path / f"s/rank_{rank}/checkpoint_rank_{rank}-0_0.ckpt")
        np.testing.assert_array_equal(shard["w"].array(), value[rank : rank + 1])
