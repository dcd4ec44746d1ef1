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

EXAMPLE = Path(__file__).parents[2] / "examples" / "mindformers"
EPOCHS, STEPS, SAVED = 2, 40, 10  # as the run YAML and its data have it; steps of one epoch
HELD = 15
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{PYTHON.parent}:{os.environ['PATH']}"}

# The example's start, of which the first attempt makes so many steps and no more: it is killed there, however
# fast the machine is.
HELD_START = f"""
import os, time
from mindformers.core.callback import MFLossMonitor
import start_on_cpu
told = MFLossMonitor.on_train_step_end
def told_and_held(self, run_context):
    told(self, run_context)
    if os.environ["ORCHESTRATE_ATTEMPT"] == "1" and run_context.original_args().cur_step_num == {HELD}:
        time.sleep(3600)
MFLossMonitor.on_train_step_end = told_and_held
start_on_cpu.main()
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


def by_hand(folder: Path, *argv: str | Path) -> None:
    """Run a program of the environment in a folder, without us."""
    done = subprocess.run(argv, cwd=folder, env=ENV, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def by_msrun(folder: Path) -> list[dict[int, float]]:
    """Train to the end, into `output` and `logs`: by rank, the loss of its own records at each step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "--worker_num=2",
        "--local_worker_num=2",
        "--join=True",
        f"--master_port={port}",
        "--log_dir=logs",
    ]
    start = ["start_on_cpu.py", "--config", "llama_tiny.yaml", "--run_mode", "train"]
    by_hand(folder, PYTHON.with_name("msrun"), *words, *start)
    told = [LINE.findall((folder / f"logs/worker_{rank}.log").read_text()) for rank in (0, 1)]
    return [
        {(int(epoch) - 1) * STEPS + int(step): float(loss) for epoch, step, loss in lines} for lines in told
    ]


def pid_of(cluster: Cluster, rank: int) -> int:
    hosts = cluster.status()["hosts"].values()
    ranks = {each["rank"]: each for host in hosts for each in host["status"]["ranks"]}
    return int(ranks[rank]["process"]["pid"])


def metrics(cluster: Cluster, attempt: int, rank: int) -> list[dict[str, Any]]:
    [path] = cluster.folder.glob(f"hosts/*/runs/*/attempts/{attempt}/metrics/rank_{rank}.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if "loss" in line]


def last_saved(folder: Path, pattern: str) -> Path:
    """The newest checkpoint of a rank, as MindFormers tells it."""
    [place] = folder.glob(pattern)
    told = json.loads((place / "meta.json").read_text())
    return place / str(told["last_ckpt_file"])


def test_mindformers_is_launched_watched_killed_goes_on_and_is_collected(cluster: Cluster) -> None:
    folder = cluster.folder
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
    by_hand(folder, PYTHON, "make_data.py")
    expected = by_msrun(folder)
    assert [list(each) for each in expected] == [list(range(1, EPOCHS * STEPS + 1))] * 2

    (folder / "held_start.py").write_text(HELD_START)
    held = ("--set", "mindformers.script=held_start.py", "--set", "sync=[start_on_cpu.py]")
    with cluster.launching(folder / "job.yaml", *held) as launch:
        told = eventually(
            lambda: bool(cluster.controls()) and (found := cluster.status()["summary"])["step"] and found,
            timeout=200,
            what="a step in status",
        )
        assert any(told["loss"] == pytest.approx(each[told["step"]], abs=1e-4) for each in expected)
        assert told["total_steps"] == EPOCHS * STEPS
        eventually(lambda: cluster.status()["summary"]["step"] == HELD, what="steps after a save")
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
        assert before == list(range(1, HELD + 1))
        assert [line["step"] for line in after] == list(range(resumed, EPOCHS * STEPS + 1))
        for line in [*metrics(cluster, 1, rank), *after]:
            assert line["loss"] == pytest.approx(expected[rank][line["step"]], abs=1e-4), line
    shards = [last_saved(folder / "hosts", f"*/runs/*/attempts/2/checkpoint/rank_{rank}") for rank in (0, 1)]
    assert shards[0].parents[5] != shards[1].parents[5], "each on the disk of its own host"

    collected = cluster.run("collect-ckpt", "-o", "llama.ckpt")
    assert collected.returncode == 0, collected.stderr
    files = [folder / "llama.ckpt", *shards, last_saved(folder, "output/checkpoint/rank_0")]
    by_hand(folder, PYTHON, "-c", LOAD, "llama_tiny.yaml", *files)
    ours, *its_own, undisturbed = (dict(np.load(folder / f"seen_{number}.npz")) for number in range(4))
    assert len(ours) > 20 and list(ours) == list(undisturbed)
    for name, value in ours.items():
        for each in its_own:
            np.testing.assert_array_equal(value, each[name], err_msg=name)
        np.testing.assert_allclose(value, undisturbed[name], atol=1e-4, err_msg=name)
