"""The real MindFormers as the worker: on two hosts over SSH, killed on its way, and collected.

What it is held against is MindFormers too, started by MindSpore's msrun without us.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.ssh_cluster import inventory_of
from orchestrator.testing.sshd import Sshd, why_no_sshd
from orchestrator.testing.waiting import eventually
from tests.real_mindformers import PYTHON, why_no_mindformers

pytestmark = [
    pytest.mark.mindspore,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
    pytest.mark.skipif(bool(why_no_mindformers()), reason=f"no MindFormers: {why_no_mindformers()}"),
]

HERE = Path(__file__).parent
EPOCHS, STEPS, SAVED = 2, 40, 10  # of one epoch; the latter as in the run YAML
DATASET = "train_dataset.data_loader.dataset_dir"
ONE_CORE = {"OMP_NUM_THREADS": "1"}

MAKE_DATA = """
import sys
import numpy as np
from mindspore.mindrecord import FileWriter
writer = FileWriter(sys.argv[1], 1)
writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]}}, "")
chance = np.random.default_rng(0)
records = (chance.integers(3, 1000, 33, np.int32) for _ in range(int(sys.argv[2])))
writer.write_raw_data([{"input_ids": ids} for ids in records])
writer.commit()
"""
# MindFormers' network, filled from each file by its own loader.
LOAD = """
import sys
import numpy as np
from mindformers.models.llama import LlamaConfig, LlamaForCausalLM
from mindformers.tools.register import MindFormerConfig
of_network = dict(MindFormerConfig(sys.argv[1]).model.model_config)
for number, file in enumerate(sys.argv[2:]):
    network = LlamaForCausalLM(LlamaConfig(**of_network, checkpoint_name_or_path=file))
    seen = {name: each.asnumpy() for name, each in network.parameters_dict().items()}
    np.savez(f"seen_{number}.npz", **seen)
"""
LINE = re.compile(r"Epoch:\[ *(\d+)/.*? step:\[ *(\d+)/.*? loss:\[([\d.]+)/")


@pytest.fixture
def cluster(tmp_path: Path, servers: list[Sshd]) -> Iterator[Cluster]:
    """Two hosts over SSH, each with one device, whose Python has MindFormers."""
    inventory = inventory_of(tmp_path, servers, devices="0")
    for host in inventory["hosts"]:
        host["python"] = str(PYTHON)
    cluster = Cluster(tmp_path, inventory)
    yield cluster
    cluster.close()


def run_python(script: str, *words: str | Path, cwd: Path) -> None:
    argv = [PYTHON, "-c", script, *words]
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **ONE_CORE}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def without_us(folder: Path, config: Path) -> dict[int, float]:
    """Train by msrun, to the end, in a folder of its own: the loss of each step, as MindFormers tells it."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [PYTHON.with_name("msrun"), "--worker_num=2", "--local_worker_num=2", f"--master_port={port}"]
    argv += ["--log_dir=logs", HERE / "mindformers_start.py", "--config", config, "--run_mode", "train"]
    env = {**os.environ, **ONE_CORE, "PATH": f"{PYTHON.parent}:{os.environ['PATH']}"}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = LINE.findall((folder / "logs/worker_0.log").read_text())
    return {(int(epoch) - 1) * STEPS + int(step): float(loss) for epoch, step, loss in lines}


def job_of(cluster: Cluster, config: Path) -> Path:
    """A job of the run YAML as it is; only where its data are is told."""
    shutil.copy(HERE / "mindformers_start.py", cluster.folder)
    job = {
        "name": "llama",
        "task": "mindformers",
        "devices_per_host": 1,
        "device_target": "CPU",
        "mindformers": {"config": config.name, "run_mode": "train", "script": "mindformers_start.py"},
        "networking": {"mode": "dynamic"},
        "restart": {"max": 1},
        "env": ONE_CORE,
        "timeouts": {"grace": 2},
    }
    path = cluster.folder / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def pid_of(cluster: Cluster, rank: int) -> int:
    hosts = cluster.status()["hosts"].values()
    ranks = {each["rank"]: each for host in hosts for each in host["status"]["ranks"]}
    return int(ranks[rank]["process"]["pid"])


def metrics(cluster: Cluster, attempt: int, rank: int) -> list[dict[str, Any]]:
    [path] = cluster.folder.glob(f"hosts/*/runs/*/attempts/{attempt}/metrics/rank_{rank}.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if "loss" in line]


def test_mindformers_is_launched_watched_killed_goes_on_and_is_collected(cluster: Cluster) -> None:
    data, config = cluster.folder / "tiny.mindrecord", cluster.folder / "llama.yaml"
    run_python(MAKE_DATA, data, str(2 * 2 * STEPS), cwd=cluster.folder)
    config.write_text(
        (HERE / "mindformers_llama.yaml").read_text().replace("/data/tiny.mindrecord", str(data))
    )
    expected = without_us(cluster.folder / "msrun", config)
    assert list(expected) == list(range(1, EPOCHS * STEPS + 1))

    with cluster.launching(job_of(cluster, config)) as launch:
        told = eventually(
            lambda: bool(cluster.controls()) and (found := cluster.status()["summary"])["step"] and found,
            timeout=200,
            what="a step in status",
        )
        assert told["loss"] == pytest.approx(expected[told["step"]], abs=1e-4)
        assert told["total_steps"] == EPOCHS * STEPS
        eventually(lambda: cluster.status()["summary"]["step"] > SAVED, what="a step after a save")
        os.kill(pid_of(cluster, 1), signal.SIGKILL)
        out, err = launch.communicate(timeout=280)
    assert launch.returncode == 0, out + err
    first, second = cluster.status()["attempts"]
    assert (first["state"], first["decision"]["choice"], second["state"]) == ("failed", "again", "succeeded")

    for rank in (0, 1):
        before = [line["step"] for line in metrics(cluster, 1, rank)]
        after = metrics(cluster, 2, rank)
        resumed = after[0]["step"]
        assert resumed % SAVED == 1 and SAVED < resumed <= len(before) + 1, (before, resumed)
        assert before == list(range(1, len(before) + 1))
        assert [line["step"] for line in after] == list(range(resumed, EPOCHS * STEPS + 1))
        for line in [*metrics(cluster, 1, rank), *after]:
            assert line["loss"] == pytest.approx(expected[line["step"]], abs=1e-4), line
    # Each on the disk of its own host.
    shards = [
        sorted(cluster.folder.glob(f"hosts/*/runs/*/attempts/2/checkpoint/rank_{rank}/*.ckpt"))
        for rank in (0, 1)
    ]
    assert all(shards) and shards[0][0].parents[5] != shards[1][0].parents[5]

    collected = cluster.run("collect-ckpt", "-o", "llama.ckpt")
    assert collected.returncode == 0, collected.stderr
    [without] = cluster.folder.glob(f"msrun/output/checkpoint/rank_0/llama_rank_0-{EPOCHS}_{STEPS}.ckpt")
    [last] = [path for path in shards[0] if path.name == without.name]
    run_python(LOAD, config, cluster.folder / "llama.ckpt", last, without, cwd=cluster.folder)
    ours, its_own, undisturbed = (dict(np.load(cluster.folder / f"seen_{number}.npz")) for number in range(3))
    assert len(ours) > 20 and list(ours) == list(its_own) == list(undisturbed)
    for name, value in its_own.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
        np.testing.assert_allclose(ours[name], undisturbed[name], atol=1e-4, err_msg=name)
