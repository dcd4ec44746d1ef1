"""What a host says of the shards of a run's attempts: whether they are whole, and their way to the next."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from orchestrator.agent.request_loop import Request
from orchestrator.agent.saved_steps import check_shard, place, saved
from orchestrator.agent.shard_ranges import identity_of, list_shards
from orchestrator.agent.verbs_shards import check_shards
from orchestrator.checkpoint.files.tensor_files import write_ckpt, write_safetensors
from orchestrator.core.errors import AgentError, CheckpointError
from orchestrator.core.paths import RunDir
from orchestrator.core.records import Load
from orchestrator.formats.shard_sum import read_sum, sum_of, sum_path

TENSORS = {"w": np.arange(1000, dtype=np.float32), "step": np.array(3, np.int32)}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "runs" / "demo")
    run.make(1)
    return run


def shard(folder: Path, rank: int, step: int, *, with_sum: bool = True) -> Path:
    path = folder / f"rank_{rank}/m_rank_{rank}-1_{step}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ckpt(path, TENSORS.items(), with_sum=with_sum)
    return path


def check(path: Path, *, hashed: bool = False):
    return check_shard(str(path), identity_of(path.stat()), hashed=hashed)


def test_the_shards_of_every_attempt_are_told_apart(run: RunDir) -> None:
    shard(run.root / "checkpoint", 0, 10)
    run.make(2)
    shard(run.root / "checkpoint", 0, 20)
    assert [(row["attempt"], row["step"]) for row in saved(run, {})] == [(1, 10), (2, 20)]
    assert all("/attempts/" in row["path"] for row in saved(run, {}))


def test_what_was_saved_at_the_end_of_a_life_is_listed_once_it_is_whole(tmp_path: Path) -> None:
    for name in (
        "ttp_saved_checkpoints-step_120/rank_0/ttp_rank_0-2_20.ckpt",
        "ttp_saved_checkpoints-step_130_tmp/rank_0/ttp_rank_0-2_30.ckpt",
        "rank_1/m_rank_1-2_25_breakpoint.ckpt",
        "rank_1/CKP-2_26_breakpoint.ckpt",
        "rank_1/meta.json",
        "latest_checkpointed_iteration.txt",
        "iteration_00000100/model-0000000-0000002.safetensors",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rows = [(row["rank"], row["epoch"], row["step"]) for row in list_shards(str(tmp_path))]
    assert rows == [(0, 2, 20), (1, 2, 25), (1, 2, 26)]


def test_a_shard_is_written_with_its_checksum(tmp_path: Path) -> None:
    path = shard(tmp_path, 0, 10)
    assert read_sum(path) == sum_of(path)
    assert check(path) == {"summed": True, "sha256": None}
    assert len(check(path, hashed=True)["sha256"]) == 64


@pytest.mark.parametrize("where", [100, -100])
def test_a_damaged_byte_is_found(tmp_path: Path, where: int) -> None:
    path = shard(tmp_path, 0, 10)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="the checksum beside it does not fit"):
        check(path)


def test_a_shard_that_is_cut_is_found_with_a_checksum_and_without(tmp_path: Path) -> None:
    for rank, with_sum in enumerate((True, False)):
        path = shard(tmp_path, rank, 10, with_sum=with_sum)
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(CheckpointError):
            check(path)


def test_a_shard_of_before_is_whole_by_its_structure_and_says_so(tmp_path: Path) -> None:
    path = shard(tmp_path, 0, 10, with_sum=False)
    assert check(path)["summed"] is False
    tensors = tmp_path / "rank_0/m_rank_0-1_20.safetensors"
    write_safetensors(tensors, [("w", TENSORS["w"])])
    assert check(tensors)["summed"] is False


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 1}', b'{"format": 9, "size": 1, "crc32": 1}'])
def test_a_checksum_that_is_none_makes_no_shard_whole(tmp_path: Path, content: bytes) -> None:
    path = shard(tmp_path, 0, 10)
    sum_path(path).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"\.sum: "):
        check(path)


def test_a_shard_that_was_written_again_is_another(tmp_path: Path) -> None:
    path = shard(tmp_path, 0, 10)
    before = identity_of(path.stat())
    path.unlink()
    shard(tmp_path, 0, 10)
    with pytest.raises(CheckpointError, match="has changed since it was listed"):
        check_shard(str(path), [before[0], before[1] - 1, before[2]], hashed=False)


def test_several_files_are_checked_at_once_and_one_that_is_damaged_hides_none(tmp_path: Path) -> None:
    paths = [shard(tmp_path, rank, 10) for rank in range(3)]
    files = [(str(path), identity_of(path.stat()), rank == 2) for rank, path in enumerate(paths)]
    sum_path(paths[1]).write_bytes(b"none")
    files.append((f"{tmp_path}/rank_9/m_rank_9-1_10.ckpt", [1, 2, 3], True))
    (answer,) = check_shards(Request(str(tmp_path), {"files": files}, None))
    whole, damaged, hashed, gone = answer.result
    assert whole == {"summed": True, "sha256": None}
    assert ".sum: " in damaged["damage"] and "No such file" in gone["damage"]
    assert hashed["sha256"] == hashlib.sha256(paths[2].read_bytes()).hexdigest()


def test_the_next_attempt_loads_what_is_there_without_a_copy(run: RunDir) -> None:
    path = shard(run.root / "checkpoint", 0, 10)
    source = (run.attempts / "1/checkpoint") / path.relative_to(run.root / "checkpoint")
    run.make(2)
    size, changed, inode = identity_of(source.stat())
    place(run, 2, [Load("rank_3/checkpoint_rank_3-1_10.ckpt", str(source), (size, changed, inode))])
    target = run.attempts / "2/load/rank_3/checkpoint_rank_3-1_10.ckpt"
    assert target.stat().st_ino == source.stat().st_ino
    source.unlink()  # as `keep` may
    assert target.read_bytes()[:3] != b""


def test_what_is_no_shard_of_the_run_is_not_placed(run: RunDir, tmp_path: Path) -> None:
    outside = shard(tmp_path / "elsewhere", 0, 10)
    run.make(2)
    size, changed, inode = identity_of(outside.stat())
    with pytest.raises(AgentError, match="is no shard of this run"):
        place(run, 2, [Load("rank_0/x.ckpt", str(outside), (size, changed, inode))])
    inside = shard(run.attempts / "1/checkpoint", 0, 10)
    for path in ("../x.ckpt", "rank_0/../../x.ckpt", "/x.ckpt", ".x"):
        with pytest.raises(AgentError, match="is no shard of this run"):
            place(run, 2, [Load(path, str(inside), (1, 2, 3))])
    with pytest.raises(AgentError, match="has changed"):
        place(run, 2, [Load("rank_0/x.ckpt", str(inside), (1, 2, 3))])
    with pytest.raises(AgentError, match="is not in force"):
        place(run, 1, [])
    inside.unlink()
    with pytest.raises(AgentError, match="No such file"):
        place(run, 2, [Load("rank_0/x.ckpt", str(inside), (1, 2, 3))])
