"""The main job over two real sshds, each a host of its own, with the control node killed on the way.

Only the ssh config knows the hosts' names, and beside the scheduler there is a rank table: without both, a
training over SSH is in test_mindformers.py, and in test_networking.py of test-long.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.plan.launch_plan import read_plan
from orchestrator.testing.local_cluster import Cluster, Result
from orchestrator.testing.ssh_cluster import ADDRESSES, inventory_of
from orchestrator.testing.sshd import Sshd, why_no_sshd
from orchestrator.testing.waiting import eventually
from orchestrator.transfer.convert import plan_combine, write
from tests.e2e.trainings import losses

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
]

ROOT = Path(__file__).parents[2]
# Two stages, one on each host: activations and gradients go from host to host. Each of two ranks: test-long.
# So is that an undisturbed training has the same weights, which test_resume.py shows of one that is killed.
TRAIN_TWICE = bool(os.environ.get("REALITY"))
RANKS = 2 if TRAIN_TWICE else 1
CHANGED = (
    *("train.steps=20", "checkpoint.save_steps=10", f"devices_per_host={RANKS}"),
    *("parallel.data_parallel=1", f"parallel.model_parallel={RANKS}"),
    *("parallel.pipeline_stage=2", "parallel.micro_batch_num=2"),
)
STEPS = tuple(word for value in CHANGED for word in ("--set", value))


def weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.array() for name, tensor in read_ckpt(path).items()}


def check_rank_table(cluster: Cluster) -> None:
    """Every worker has the table beside the scheduler, whose host only the ssh config knows."""
    plan = read_plan(cluster.controls()[-1].plan)
    found = [dict(worker.env) for manifest in plan.manifests.values() for worker in manifest.workers]
    assert {env["MS_SCHED_HOST"] for env in found} == {ADDRESSES[0]}
    assert {env["RANK_TABLE_FILE"] for env in found} == {"{run_dir}/rank_table.json"}
    (first, second) = cluster.folder.glob("hosts/*/runs/*/rank_table.json")
    assert first.read_bytes() == second.read_bytes()
    servers = json.loads(first.read_text())["server_list"]
    assert [server["server_id"] for server in servers] == ["npu-a", "npu-b"]


@pytest.mark.mindspore
def test_the_demo_job_survives_its_control_node_and_is_collected(
    hosts_at: Callable[..., Cluster], tmp_path: Path
) -> None:
    remote = hosts_at("npu-a", "npu-b", **{"npu-a": ADDRESSES[0], "npu-b": ADDRESSES[1]})
    job, metrics = ROOT / "jobs" / "demo.yaml", "hosts/*/runs/*/metrics/rank_*.jsonl"
    with remote.launching(job, *STEPS, "--set", "networking.mode=rank_table") as launch:
        eventually(
            lambda: any(b'"loss"' in path.read_bytes() for path in tmp_path.glob(metrics)),
            timeout=300,
            what="a first step",
        )
        check_rank_table(remote)
        remote.kill_monitor()
        launch.kill()
    shutil.rmtree(remote.state)
    assert remote.run("runs", "--rediscover", "-i", remote.inventory).returncode == 0
    attached = remote.run("attach", timeout=600)
    assert attached.returncode == 0, attached
    assert list(losses(remote, "demo")) == list(range(1, 21))
    # The machine that collects goes down in the middle of it, and its connections with it.
    words = ("collect-ckpt", "-o", "ssh.ckpt", "--via-hosts")
    with subprocess.Popen(remote.argv(*words, "--bwlimit", "100k"), env=remote.env, cwd=tmp_path) as first:
        journal = tmp_path / ".ssh.ckpt.journal"
        eventually(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 6, what="some segments")
        first.kill()
    assert not (tmp_path / "ssh.ckpt").exists()
    collected = remote.run(*words)
    assert collected.returncode == 0, collected.stderr
    assert "had been there" in collected.stdout
    expected = of_another_way(remote, job)
    ours = weights(tmp_path / "ssh.ckpt")
    assert list(ours) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def of_another_way(cluster: Cluster, job: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The weights of the same job on local hosts, undisturbed; or what its ranks have saved, combined.

    That what is collected loads, test_trainer.py shows.
    """
    folder = cluster.folder / "plain"
    folder.mkdir()
    names = ("config.yaml", "tokenizer.json")
    if TRAIN_TWICE:
        # Loads strictly: a tensor that is missing, extra or of another shape is refused.
        words = ["--checkpoint", cluster.folder / "ssh.ckpt", "--prompt", "Hi"]
        ask = [sys.executable, "-m", "model", "generate", *words]
        subprocess.run(ask, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        local = Cluster.local(folder)
        try:
            result = local.launch(job, *STEPS, timeout=600)
            assert result.returncode == 0, result
            assert local.run("collect-ckpt", "-o", "whole.ckpt").returncode == 0
        finally:
            local.close()
    else:
        for run in cluster.folder.glob("hosts/*/runs/*"):
            for part in ("checkpoint", "strategy", "model"):
                if (run / part).exists():
                    shutil.copytree(run / part, folder / part, dirs_exist_ok=True)
        write(plan_combine(folder / "checkpoint", folder / "strategy"), folder / "whole.ckpt")
        for name in names:
            shutil.copy(folder / "model" / name, folder)
    for name in names:
        assert (cluster.folder / name).read_bytes() == (folder / name).read_bytes()
    return weights(folder / "whole.ckpt")


def test_command_job_over_ssh_with_logs_and_stop(remote: Cluster) -> None:
    remote.launch(remote.job(["sh", "-c", f"echo on $RANK_ID; {' '.join(remote.sleep)}"]), "--detach")
    assert set(remote.states().values()) == {"running"}
    assert remote.run("logs").stdout.splitlines() == [f"[rank {rank}] on {rank}" for rank in range(4)]
    assert remote.run("stop").returncode == 0
    assert not remote.sleepers()


def test_broken_connections_are_made_anew(remote: Cluster, servers: list[Sshd]) -> None:
    flag = remote.folder / "go"
    job = remote.job(["sh", "-c", f"while [ ! -e {flag} ]; do sleep 0.1; done"])
    with remote.launching(job) as launch:
        remote.wait_until_running()
        for server in servers:
            server.kill_connections()
        eventually(lambda: all(server.connections() for server in servers), what="new connections")
        assert set(remote.states().values()) <= {"running", "unreachable"}
        flag.touch()
        out, _ = launch.communicate(timeout=120)
    assert launch.returncode == 0, out


def errors_of(result: Result) -> list[str]:
    """What stands on stderr, without what this machine is warned of (little shared memory, say)."""
    return [line for line in result.stderr.splitlines() if line and ": warning: " not in line]


def test_a_host_that_is_down_leaves_the_other_untouched(remote: Cluster, servers: list[Sshd]) -> None:
    servers[1].stop()
    result = remote.launch(remote.job(remote.sleep))
    assert result.returncode == 3, result
    lines = errors_of(result)
    assert len(lines) == 1 and lines[0].startswith("orchestrate: node3: "), lines
    assert remote.run_dirs() == []


def test_unknown_and_changed_host_keys_are_refused(tmp_path: Path, servers: list[Sshd]) -> None:
    data = inventory_of(tmp_path, servers)
    empty = tmp_path / "empty_known_hosts"
    empty.touch()
    data["ssh"]["known_hosts"] = [str(empty)]
    cluster = Cluster(tmp_path, data)
    unknown = cluster.launch(cluster.job(["true"]))
    assert unknown.returncode == 3 and "ssh-keyscan" in unknown.stderr, unknown.stderr
    assert "Traceback" not in unknown.stderr
    accepted = cluster.launch(cluster.job(["true"]), "--accept-new-host-keys")
    assert accepted.returncode == 0, accepted.stderr
    assert len(empty.read_text().splitlines()) == 2
    other = servers[0].host_key
    entries = zip(servers, ADDRESSES, strict=True)
    empty.write_text("".join(f"[{address}]:{server.port} {other}\n" for server, address in entries))
    changed = cluster.launch(cluster.job(["true"]), "--accept-new-host-keys")
    assert changed.returncode == 3 and "changed" in changed.stderr, changed.stderr
    assert errors_of(changed)[0].startswith("orchestrate: node3")


def test_a_wrong_key_is_one_clear_line(tmp_path: Path, servers: list[Sshd]) -> None:
    data = inventory_of(tmp_path, servers)
    data["hosts"][1]["key"] = str(servers[0].key_path)
    cluster = Cluster(tmp_path, data)
    result = cluster.launch(cluster.job(["true"]))
    assert result.returncode == 3, result
    (line,) = errors_of(result)
    assert line.startswith("orchestrate: node3: ")
    assert cluster.run_dirs() == []
