import json
import os
import threading
import zlib

import numpy as np
import pytest

from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.tensor_files import read_ckpt, read_safetensors, write_ckpt
from orchestrator.checkpoint.host_files import LocalFiles
from orchestrator.core.errors import (
    AgentError,
    CheckpointError,
    ConnectError,
    HostsFailed,
    Interrupted,
    TransportError,
)
from orchestrator.transfer.collect import Collection, collect
from orchestrator.transfer.collect_run import no_empty_folder
from tests.checkpoint.support import bloom, random, save_run

HOW = ("rate", "streams_per_host", "segment_bytes", "durable", "free")
TOLD = ("progress", "say")


def collected(run, output, source=None, **options):
    source = source or LocalFiles(run.folders)
    how = CopyOptions(**{name: options.pop(name) for name in HOW if name in options})
    report = Report(**{name: options.pop(name) for name in TOLD if name in options})
    wanted = Collection(run.strategies, run.world_size, **options)
    return collect(source, list(run.folders), wanted, output, how, report)


def check(run, tensors):
    assert set(tensors) == set(run.full)
    for name, value in run.full.items():
        np.testing.assert_array_equal(tensors[name].array(), value)


@pytest.mark.parametrize(("dp", "mp"), [(1, 1), (2, 2), (1, 4), (4, 1), (1, 3)])
def test_the_collected_file_is_the_whole_model(tmp_path, dp, mp):
    run = save_run(tmp_path, [bloom(dp, mp)])
    result = collected(run, tmp_path / "out" / "model.ckpt")
    check(run, read_ckpt(tmp_path / "out" / "model.ckpt"))
    assert (result.choice.step, result.plan.nbytes) == (10, sum(value.nbytes for value in run.full.values()))
    assert sorted(os.listdir(tmp_path / "out")) == ["model.ckpt", "model.ckpt.manifest.json"]


def test_what_does_not_wait_for_the_disk_is_the_same(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    for durable in (True, False):
        collected(run, tmp_path / f"{durable}.ckpt", durable=durable)
    assert (tmp_path / "True.ckpt").read_bytes() == (tmp_path / "False.ckpt").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_safetensors_and_stages(tmp_path):
    first, second = bloom(2, 2), {f"second.{name}": value for name, value in bloom(2, 2, seed=9).items()}
    run = save_run(tmp_path, [first, second | {"embedding_table": first["embedding_table"]}])
    collected(run, tmp_path / "model.safetensors", format="safetensors")
    check(run, read_safetensors(tmp_path / "model.safetensors"))


def test_types_keep_their_bits(tmp_path):
    grid = Layout((2, 2), (0, -1))
    stage = {
        "half": (random((6, 3), "float16"), grid),
        "brain": (random((6, 3), "uint16"), Layout((2, 2), (0, -1), 2, -1)),
        "count": (random((4, 7), "int64"), Layout((2, 2), (1, -1))),
    }
    stage["brain"] = (random((12, 3), "uint16"), Layout((2, 2), (0, -1), 2, 2))
    run = save_run(tmp_path, [stage], bfloat16=frozenset({"brain"}))
    collected(run, tmp_path / "model.ckpt")
    tensors = read_ckpt(tmp_path / "model.ckpt")
    check(run, tensors)
    assert [tensor.dtype for tensor in tensors.values()] == ["Float16", "BFloat16", "Int64"]


def test_the_optimizer_comes_along_when_asked(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    collected(run, tmp_path / "all.ckpt", with_optimizer=True)
    tensors = read_ckpt(tmp_path / "all.ckpt")
    np.testing.assert_array_equal(tensors["adam_m.mapping.weight"].array(), run.full["mapping.weight"])
    assert int(tensors["global_step"].array()) == 10


def test_the_newest_complete_step_and_the_one_asked_for(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)], steps=((1, 9), (1, 10)))
    run.shard(1, step=10).unlink()
    assert collected(run, tmp_path / "a.ckpt").choice.step == 10
    run.shard(3, step=10).unlink()
    assert collected(run, tmp_path / "b.ckpt").choice.step == 9
    with pytest.raises(CheckpointError, match="step 10 lacks rank 1 or 3"):
        collected(run, tmp_path / "c.ckpt", step=10)


def test_progress_ends_at_the_total(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    seen = []
    result = collected(run, tmp_path / "a.ckpt", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (result.plan.nbytes, result.plan.nbytes)
    assert seen == sorted(seen)


def test_only_the_slices_that_are_needed_are_read(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    source = Counting(run.folders)
    result = collected(run, tmp_path / "a.ckpt", source)
    assert source.nbytes == result.plan.nbytes
    assert set(result.plan.bytes_per_host) == {"a", "b"}


class Counting(LocalFiles):
    nbytes = 0
    lock = threading.Lock()

    def read(self, host, segments):
        for data, crc in super().read(host, segments):
            with self.lock:
                self.nbytes += len(data)
            yield data, crc


class Faulty(LocalFiles):
    """Every `read` for which `faults` has an entry goes wrong that way, once."""

    def __init__(self, folders, faults):
        super().__init__(folders)
        self.faults = list(faults)
        self.reads = 0
        self.lock = threading.Lock()

    def read(self, host, segments):
        with self.lock:
            self.reads += 1
            fault = self.faults.pop(0) if self.faults else None
        for number, (data, _) in enumerate(super().read(host, segments)):
            if fault == "gone" or (fault == "break" and number == 1):
                raise TransportError("connection lost", where=host)
            if fault == "nothing" or (fault == "short" and number == 1):
                return
            yield (memoryview(bytes(len(data))) if fault == "damage" else data), zlib.crc32(data)
        if fault == "long":
            yield memoryview(b"more"), 0


@pytest.mark.parametrize("fault", ["break", "short", "damage"])
def test_one_fault_is_mended(tmp_path, fault):
    run = save_run(tmp_path, [bloom(2, 2)])
    seen = []
    source = Faulty(run.folders, [fault])
    collected(run, tmp_path / "a.ckpt", source, progress=lambda done, total: seen.append((done, total)))
    check(run, read_ckpt(tmp_path / "a.ckpt"))
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("faults", "error", "message"),
    [
        (["gone"] * 20, TransportError, "connection lost"),
        (["nothing"] * 20, TransportError, "bytes early"),
        (["damage"] * 20, CheckpointError, "differs from what the host has, twice"),
        (["long"] * 20, CheckpointError, "more bytes came"),
    ],
)
def test_a_fault_that_stays_is_one_error_and_leaves_nothing(tmp_path, faults, error, message):
    run = save_run(tmp_path, [bloom(1, 1)], hosts=("a",))
    with pytest.raises(error, match=message):
        collected(run, tmp_path / "out" / "a.ckpt", Faulty(run.folders, faults), segment_bytes=1 << 20)
    assert not (tmp_path / "out" / "a.ckpt").exists()


def test_a_retry_begins_at_the_segment_and_not_at_the_start(tmp_path):
    run = save_run(tmp_path, [bloom(1, 1)], hosts=("a",))
    source = Faulty(run.folders, ["break"] * 3)
    collected(run, tmp_path / "a.ckpt", source, segment_bytes=60, streams_per_host=1)
    check(run, read_ckpt(tmp_path / "a.ckpt"))
    assert source.reads == 4


class Away(LocalFiles):
    def __init__(self, folders, away, error):
        super().__init__(folders)
        self.away, self.error = away, error

    def list_shards(self, host):
        if host in self.away:
            raise self.error("refused", where=host)
        return super().list_shards(host)


def test_a_host_that_is_not_needed_may_be_away(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    result = collected(run, tmp_path / "a.ckpt", Away(run.folders, {"b"}, ConnectError))
    check(run, read_ckpt(tmp_path / "a.ckpt"))
    assert list(result.unreachable) == ["b"]


def test_a_host_that_is_needed_is_the_error(tmp_path):
    run = save_run(tmp_path, [bloom(1, 4)])
    with pytest.raises(ConnectError, match="b: refused"):
        collected(run, tmp_path / "a.ckpt", Away(run.folders, {"b"}, ConnectError))
    with pytest.raises(HostsFailed):
        collected(run, tmp_path / "a.ckpt", Away(run.folders, {"a", "b"}, ConnectError))
    with pytest.raises(AgentError, match="b: refused"):
        collected(run, tmp_path / "a.ckpt", Away(run.folders, {"b"}, AgentError))


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-31])


def said_of(run, output, source=None, **options):
    said = []
    result = collected(run, output, source, say=said.append, **options)
    manifest = json.loads(output.with_name(f"{output.name}.manifest.json").read_text())
    return result, said, manifest


def test_a_cut_shard_is_replaced_by_a_replica_and_named(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)], steps=((1, 9), (1, 10)))
    cut_off(run.shard(2))
    result, said, manifest = said_of(run, tmp_path / "a.ckpt")
    check(run, read_ckpt(tmp_path / "a.ckpt"))
    assert (result.choice.step, manifest["passed_over"]) == (10, {})
    assert len(said) == 1 and said[0].startswith(f"b: {run.shard(2)}: is damaged")
    assert list(manifest["left_aside"]) == [f"b: {run.shard(2)}"]


@pytest.mark.parametrize("damage", [cut_off, os.unlink, lambda path: path.write_bytes(b"")])
def test_an_older_step_is_taken_with_a_word_where_shards_of_the_newest_are_missing_or_cut(tmp_path, damage):
    run = save_run(tmp_path, [bloom(2, 2)], steps=((1, 9), (1, 10)))
    for rank in (1, 3):
        damage(run.shard(rank))
    result, said, manifest = said_of(run, tmp_path / "a.ckpt")
    check(run, read_ckpt(tmp_path / "a.ckpt"))
    assert result.choice.step == 9
    line = "epoch 1 step 10 is newer but not complete, it lacks rank 1 or 3"
    assert said[-1].startswith(line) and said[-1].endswith("epoch 1 step 9 was taken")
    assert manifest["passed_over"]["epoch 1 step 10"].startswith("lacks rank 1 or 3")


def test_a_cut_shard_that_nothing_replaces_is_the_error(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)], steps=((1, 9), (1, 10)))
    for rank in (0, 2):
        cut_off(run.shard(rank))
    with pytest.raises(CheckpointError, match="damaged") as caught:
        collected(run, tmp_path / "a.ckpt", step=10)
    assert caught.value.where in (str(run.shard(0)), str(run.shard(2)))  # whichever was read first


def test_a_host_without_the_run_does_not_stop_what_replicas_can_complete(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    result, _, _ = said_of(run, tmp_path / "a.ckpt", Away(run.folders, {"b"}, AgentError))
    check(run, read_ckpt(tmp_path / "a.ckpt"))
    assert list(result.unreachable) == ["b"]


def test_a_flipped_bit_in_a_replica_is_found_where_it_is_asked_for(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    collected(run, tmp_path / "a.ckpt", check_replicas=True)
    path = run.shard(2)
    content = bytearray(path.read_bytes())
    at = content.index(b"projection.weight") + 60
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"replicas differ: projection\.weight: ranks 0, 2 do not"):
        collected(run, tmp_path / "b.ckpt", check_replicas=True)
    assert not list(tmp_path.glob("*b.ckpt*"))
    three = save_run(tmp_path / "three", [bloom(3, 1)])
    path = three.shard(1)
    content = bytearray(path.read_bytes())
    content[content.index(b"projection.weight") + 60] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="rank 1 does not hold the bytes of its 2 replicas"):
        collected(three, tmp_path / "c.ckpt", check_replicas=True)


class LostLater(LocalFiles):
    def index(self, host, path):
        if host == "b":
            raise ConnectError("gone", where=host)
        return super().index(host, path)


def test_a_host_that_is_lost_after_it_has_listed_its_files_is_planned_around(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    result, _, _ = said_of(run, tmp_path / "a.ckpt", LostLater(run.folders))
    check(run, read_ckpt(tmp_path / "a.ckpt"))
    assert list(result.unreachable) == ["b"]
    run = save_run(tmp_path / "needed", [bloom(1, 4)])
    with pytest.raises(ConnectError):
        collected(run, tmp_path / "b.ckpt", LostLater(run.folders))


def test_no_room_is_told_before_a_byte_is_read(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])
    source = Counting(run.folders)
    with pytest.raises(CheckpointError, match="GB free"):
        collected(run, tmp_path / "a.ckpt", source, free=lambda folder: 100)
    assert source.nbytes == 0
    assert not list(tmp_path.glob("*a.ckpt*"))


def test_an_interrupt_leaves_nothing(tmp_path):
    run = save_run(tmp_path, [bloom(2, 2)])

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="interrupted"):
        collected(run, tmp_path / "out" / "a.ckpt", progress=interrupt)
    assert os.listdir(tmp_path / "out") == []


def test_plain_data_parallel_without_strategies(tmp_path):
    for rank in range(2):
        folder = tmp_path / "a" / f"rank_{rank}"
        folder.mkdir(parents=True)
        write_ckpt(
            folder / "CKP-1_5.ckpt", [("w", np.ones(3, np.float32)), ("empty", np.zeros((0, 2), np.float32))]
        )
    source = LocalFiles({"a": tmp_path / "a"})
    with pytest.raises(CheckpointError, match="no strategy file"):
        collect(source, ["a"], Collection({}, 2), tmp_path / "o.ckpt")
    collect(source, ["a"], Collection({}, 2, replicated=True), tmp_path / "o.ckpt")
    assert read_ckpt(tmp_path / "o.ckpt")["empty"].dims == (0, 2)


def test_where_nothing_is_collected_no_folder_is_left(tmp_path):
    (tmp_path / "mine").mkdir()
    for output in (tmp_path / "mine" / "new" / "deep" / "x.ckpt", tmp_path / "mine" / "x.ckpt"):
        with pytest.raises(ZeroDivisionError), no_empty_folder(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            raise ZeroDivisionError
    assert list((tmp_path / "mine").iterdir()) == []  # which had been there
    with no_empty_folder(tmp_path / "new" / "x.ckpt"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / ".x.ckpt.journal").write_text("to go on from")
    assert (tmp_path / "new" / ".x.ckpt.journal").exists()
