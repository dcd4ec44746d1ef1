"""A program of one's own that goes on: in its working directory, knowing that it was started before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.checkpoint.files.tensor_files import write_ckpt
from orchestrator.testing.local_cluster import Cluster

# It saves as MindSpore does, fails the first time, and tells what it knows the second time.
PROGRAM = """
mkdir -p checkpoint/rank_$RANK && printf x >> seen.txt
test "$ORCHESTRATE_ATTEMPT" = 1 && { cp shard.ckpt checkpoint/rank_$RANK/CKP-1_7.ckpt; sleep 0.5; exit 3; }
echo "$TORCHELASTIC_RESTART_COUNT $ORCHESTRATE_CHECKPOINT_STEP $ORCHESTRATE_CHECKPOINT" > told.txt
test -f "$ORCHESTRATE_CHECKPOINT/rank_$RANK/CKP-1_7.ckpt"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster.local(tmp_path, hosts=2)
    yield cluster
    cluster.close()


def test_a_command_goes_on_in_its_working_directory(cluster: Cluster) -> None:
    write_ckpt(cluster.folder / "shard.ckpt", [("w", np.zeros(4))])
    job = cluster.job(["sh", "-c", PROGRAM], devices_per_host=1, sync=["shard.ckpt"])
    first = cluster.launch(job)
    assert first.returncode == 1 and "Go on with it: orchestrate resume job-" in first.stdout
    dry = cluster.run("resume", "job", "--dry-run")
    assert dry.returncode == 0 and "attempt 2 begins anew, 2 ranks on host[1-2]" in dry.stdout
    assert "the newest whole checkpoint is of step 7, in attempts/1/checkpoint" in dry.stderr
    # One of its shards is cut: then nothing that is whole can be named.
    shard = cluster.run_dirs()[0] / "attempts/1/checkpoint/rank_0/CKP-1_7.ckpt"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert "newest whole checkpoint" not in cluster.run("resume", "job", "--dry-run").stderr
    shard.write_bytes(whole)
    second = cluster.run("resume", "job")
    assert second.returncode == 0, second.stdout + second.stderr
    for home in cluster.run_dirs():
        assert (home / "seen.txt").read_text() == "xx"
        assert (home / "told.txt").read_text() == f"1 7 {home}/attempts/1/checkpoint\n"
    assert cluster.run("resume", "job").returncode == 2  # it has succeeded: there is nothing to go on with
