"""`orchestrate runs rm` on local hosts."""

from __future__ import annotations

import json

from orchestrator.testing.local_cluster import Cluster


def test_runs_are_removed_here_and_on_their_hosts(local: Cluster) -> None:
    (local.folder / "data.bin").write_bytes(bytes(400_000))
    for _ in range(2):
        assert local.launch(local.job(["cat", "data.bin"], sync=["data.bin"])).returncode == 0
    newest = local.controls()[-1].run_id
    with local.launching(local.job(local.sleep, name="long")):
        local.wait_until_running()
        refused = local.run("runs", "rm", newest, "long")
        assert refused.returncode == 2 and "is running (`orchestrate stop long" in refused.stderr
        told = json.loads(local.run("runs", "rm", "--keep", "2", "--dry-run", "--json").stdout)
        assert len(told) == 1 and not told[0]["removed"] and len(local.run_dirs()) == 6
        assert sum(told[0]["bytes_on_hosts"].values()) > 800_000
        done = local.run("runs", "rm", "--keep", "2")
        assert done.returncode == 0 and "freed" in done.stdout and "on host[1-2]" in done.stdout
        assert len(local.controls()) == 2 and len(local.run_dirs()) == 4
        assert local.run("stop").returncode == 0
    used = local.run("runs", "--disk")
    assert used.returncode == 0 and "content stores" in used.stdout and newest in used.stdout
    assert local.run("runs", "rm", "--older-than", "0s").returncode == 0
    assert local.controls() == [] and local.run_dirs() == []
    assert local.run("runs", "rm").returncode == 2
