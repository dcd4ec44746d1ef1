"""collect-ckpt as a person runs it: over SSH, cut in the middle, interrupted, and what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from orchestrator.checkpoint.copy_plan import Copy, Segment
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.shard_index import StoredTensor
from orchestrator.cli.units import byte_size
from orchestrator.core.paths import RunDir
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.launch_plan import read_plan
from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.sshd import Sshd, why_no_sshd
from orchestrator.testing.waiting import eventually
from orchestrator.transfer.run_files import RunFiles
from tests.checkpoint.support import Run, bloom, random, save_run

without_sshd = pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}")


def with_shards(cluster: Cluster, root: Path, stages: list[dict[str, tuple[np.ndarray, Layout]]]) -> Run:
    """A finished run of four ranks on two hosts, which has left these shards."""
    done = cluster.launch(cluster.job(["true"], name="demo"))
    assert done.returncode == 0, done.stderr
    runs = [RunDir(path).attempt for path in cluster.run_dirs()]
    saved = save_run(root, stages, hosts=("one", "two"))
    for run, host in zip(runs, ("one", "two"), strict=True):
        for home in (root / host).iterdir():
            shutil.copytree(home, run.checkpoint / home.name)
    for path in (root / "strategy").iterdir():
        shutil.copy(path, runs[int(path.stem[-1]) // 2].strategy / path.name)
    return saved


def check(saved: Run, path: Path) -> None:
    tensors = read_ckpt(path)
    assert set(tensors) == set(saved.full)
    for name, value in saved.full.items():
        np.testing.assert_array_equal(tensors[name].array(), value)


def larger() -> list[dict[str, tuple[np.ndarray, Layout]]]:
    """Eight tensors of 8 MB, cut over four ranks: more than what is under way in buffers."""
    grid = Layout((1, 4), (0, -1))
    return [{f"w{n}": (random((1024, 2048), seed=n), grid) for n in range(8)}]


def journal_lines(folder: Path) -> list[list[int]]:
    """The finished segments: read, start, bytes, crc32, rank."""
    try:
        rows = [json.loads(line) for line in (folder / ".out.ckpt.journal").read_bytes().splitlines()]
    except (FileNotFoundError, ValueError):
        return []
    return [row for row in rows if isinstance(row, list)]


@pytest.mark.sshd
@without_sshd
def test_a_collection_cut_in_the_middle_goes_on_without_moving_a_byte_twice(
    tmp_path: Path, remote: Cluster, servers: list[Sshd]
) -> None:
    saved = with_shards(remote, tmp_path / "saved", larger())
    total = sum(value.nbytes for value in saved.full.values())
    words = ("collect-ckpt", "-o", "out.ckpt", "--via-hosts")
    argv = remote.argv(*words, "--bwlimit", "16M")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, env=remote.env, cwd=tmp_path, **pipes) as first:
        eventually(lambda: len(journal_lines(tmp_path)) > 4, what="some segments")
        for server in servers:
            server.kill_connections()
            server.stop()
        _, said = first.communicate(timeout=120)
    assert first.returncode == 3, said
    assert "the same command goes on from there" in said and "Traceback" not in said
    assert not (tmp_path / "out.ckpt").exists()
    kept = sum(row[2] for row in journal_lines(tmp_path))
    assert 0 < kept < total

    again = [Sshd(server.folder, port=server.port) for server in servers]
    try:
        counting = remote.run(*words)
    finally:
        for server in again:
            server.stop()
    assert counting.returncode == 0, counting.stderr
    assert f"{byte_size(kept)} of what was read had been there" in counting.stdout
    check(saved, tmp_path / "out.ckpt")
    manifest = json.loads((tmp_path / "out.ckpt.manifest.json").read_text())
    assert sum(manifest["bytes_per_host"].values()) == total
    assert sorted(path.name for path in (tmp_path / "out.ckpt.strategy").iterdir())[0].endswith("rank_0.ckpt")


def test_ctrl_c_keeps_what_is_there_and_a_second_collection_is_refused(
    tmp_path: Path, local: Cluster
) -> None:
    saved = with_shards(local, tmp_path / "saved", larger())
    words = ("collect-ckpt", "-o", "out.ckpt")
    argv = local.argv(*words, "--bwlimit", "4M")  # 17 s in all: it is there while the second one starts
    with subprocess.Popen(argv, env=local.env, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as first:
        eventually(lambda: len(journal_lines(tmp_path)) > 2, what="some segments")
        second = local.run(*words)
        assert second.returncode == 2
        assert f"is being written by another collection, process {first.pid}" in second.stderr
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=120)
    assert first.returncode == 5, said
    assert "orchestrate: interrupted: " in said and "the same command goes on" in said
    assert local.run(*words).returncode == 0
    check(saved, tmp_path / "out.ckpt")


def test_what_a_dry_run_tells_and_what_comes_along(tmp_path: Path, local: Cluster) -> None:
    saved = with_shards(local, tmp_path / "saved", [bloom(2, 2)])
    (RunDir(local.run_dirs()[1]).attempt.checkpoint / "rank_3").rename(tmp_path / "rank_3")
    dry = local.run("collect-ckpt", "--dry-run", "-o", "out.ckpt")
    assert dry.returncode == 0, dry.stderr
    assert "epoch 1 step 10, 5 tensors" in dry.stdout and "directly" in dry.stdout
    assert "left out: 5 tensors, optimizer state" in dry.stdout
    assert "rank 3 on host2 has no file of this step: replicas are read" in dry.stdout
    assert not list(tmp_path.glob("*out.ckpt*"))
    done = local.run("collect-ckpt", "-o", "out.ckpt", "--logs", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr
    assert "rank 3 on host2 has no file of that step" in done.stderr
    assert {path.name for path in (tmp_path / "out.ckpt.logs").iterdir()} == {
        f"rank_{rank}.log" for rank in range(4)
    }
    assert {tensor.dtype for tensor in read_ckpt(tmp_path / "out.ckpt").values()} == {"BFloat16"}
    (RunDir(local.run_dirs()[0]).attempt.checkpoint / "rank_1").rename(tmp_path / "rank_1")
    refused = local.run("collect-ckpt", "-o", "none.ckpt")
    assert refused.returncode == 2
    assert "lacks rank 1 or 3 on host1 or host2 (for embedding_table)" in refused.stderr, refused.stderr
    assert set(saved.full) and not list(tmp_path.glob("*none.ckpt*"))


def test_what_is_put_beside_and_a_host_whose_disk_was_replaced(tmp_path: Path, local: Cluster) -> None:
    saved = with_shards(local, tmp_path / "saved", [bloom(2, 2)])
    model = RunDir(local.run_dirs()[0]).attempt.model
    (model / "config.yaml").write_text("hidden_size: 10\n")
    (model / "weights.bin").write_bytes(b"none of ours")
    first = local.run("collect-ckpt", "-o", "out.ckpt", "--logs", "--check-replicas")
    assert first.returncode == 0, first.stderr
    assert "config.yaml: written" in first.stdout and "out.ckpt.logs/: 4 files written" in first.stdout
    assert "host1: 1 files of model/ are none of ours and were left out" in first.stderr
    note = tmp_path / "out.ckpt.logs" / "notes.txt"
    note.write_text("mine")
    refused = local.run("collect-ckpt", "-o", "out.ckpt", "--logs")
    assert refused.returncode == 2 and "out.ckpt.logs/notes.txt in" in refused.stderr
    note.unlink()
    shutil.rmtree(local.run_dirs()[1])
    again = local.run("collect-ckpt", "-o", "out.ckpt", "--logs")
    assert again.returncode == 0, again.stderr
    assert "host2 could not be asked and was not needed: no run" in again.stderr
    assert "host2: its logs are not there" in again.stderr
    # Those of the host that is gone can be had nowhere else.
    assert sorted(path.name for path in note.parent.iterdir()) == [f"rank_{rank}.log" for rank in range(4)]
    check(saved, tmp_path / "out.ckpt")
    (tmp_path / "config.yaml").write_text("another: model\n")
    other = local.run("collect-ckpt", "-o", "other.ckpt")
    assert other.returncode == 2 and "config.yaml in" in other.stderr
    assert not (tmp_path / "other.ckpt").exists()


@pytest.mark.sshd
@without_sshd
def test_more_than_a_gigabyte_over_one_connection(
    tmp_path: Path, remote: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """paramiko renews keys after 512 MB by default, and a stream that crossed that broke."""
    with_shards(remote, tmp_path / "saved", [bloom(2, 2)])
    shard = RunDir(remote.run_dirs()[0]).attempt.checkpoint / "rank_0" / "mindformers_rank_0-9_99.ckpt"
    size = 1_100_000_000
    shard.touch()
    os.truncate(shard, size)
    plan = read_plan(remote.controls()[0].plan)
    monkeypatch.setenv("PATH", str(tmp_path))  # no ssh there: all goes over paramiko
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        files = RunFiles(fleet, plan.run_id, plan.ssh, via_hosts=True)
        host = plan.hosts[0].name
        files.list_shards(host)
        step = 50_000_000
        stored = StoredTensor(Spec("w", (size,), "Int8"), ((0, size),))
        copy = Copy(0, ((0, size),), 0, host, str(shard), stored, ((0, size),))
        wanted = [Segment(0, copy, start, step) for start in range(0, size, step)]
        moved = sum(len(data) for data, _ in files.read(host, wanted))
        assert moved == size
        assert len(files.list_shards(host)) == 3  # another channel on the same connection
        files.close()
