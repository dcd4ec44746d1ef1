"""A run of `task: mindformers` goes on from the files of its ranks, on their hosts; with a stand-in trainer.

It writes what MindFormers 1.9.0 writes, as it does: names count the step within the epoch, and begin anew
where a run was resumed (seen on the real one, see tests/transfer/test_mindformers_real.py).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.config.tasks import Task
from orchestrator.testing.local_cluster import Cluster

pytestmark = pytest.mark.skipif("mindformers" not in get_args(Task), reason="no task: mindformers yet")

TRAINER = """
import argparse, datetime, json, os, time
import numpy as np, yaml
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt

words = argparse.ArgumentParser()
words.add_argument("--config")
config = yaml.safe_load(open(words.parse_known_args()[0].config))
if os.environ.get("MS_ROLE") == "MS_SCHED":
    time.sleep(600)
rank, start = int(os.environ["RANK_ID"]), 0
if config["resume_training"]:
    name = config["resume_training"].replace("_rank_0", f"_rank_{rank}")
    (found,) = os.listdir(config["load_checkpoint"])  # of this rank, and of no other
    assert found == f"rank_{rank}", found
    held = read_ckpt(os.path.join(config["load_checkpoint"], found, name))
    start = int(held["step_num"].array())
folder = f"{config['output_dir']}/checkpoint/rank_{rank}"
os.makedirs(folder)

def log(text):
    now = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S},000"
    print(f"{now} - mindformers/log[mindformers/core/callback/callback.py:747] - INFO - {text}", flush=True)

log(".........Starting Training Model..........")
for step in range(start + 1, 31):
    time.sleep(0.1)
    epoch, within = (step - 1) // 10 + 1, (step - 1) % 10 + 1
    log(
        f"{{ Epoch:[{epoch:3}/  3], step:[{within:5}/   10], loss:[{8 - step / 100:.6f}/8.000000], "
        "per_step_time: 100ms, lr: 0.001, overflow cond: False, loss_scale: 1.0, global_norm: [0.9], "
        "train_throughput_per_npu: 0.001T"
    )
    if step % 4 == 0 and not (step == 16 and start == 0 and rank == 0):  # what one rank lacks is not whole
        name = f"llama_rank_{rank}-{epoch}_{(step - start - 1) % 10 + 1}.ckpt"
        values = np.full(4, step, np.float32)
        held = [("w", values), ("adam_m.w", values), ("step_num", np.array(step, np.int64))]
        log(f"step_num: {step}")
        write_ckpt(f"{folder}/{name}", held)
        with open(f"{folder}/meta.json", "w") as meta:
            json.dump({"last_epoch": epoch, "last_step": within, "last_ckpt_file": name}, meta)
    if step == 18 and start == 0 and rank == 1:
        raise SystemExit(3)
log(".........Training Over!.............")
"""
RUN_YAML = {
    "seed": 0,
    "output_dir": "./output",
    "load_checkpoint": "",
    "resume_training": False,
    "auto_trans_ckpt": False,
    "use_parallel": True,
    "run_mode": "train",
    "trainer": {"type": "CausalLanguageModelingTrainer", "model_name": "llama"},
    "runner_config": {"epochs": 3, "batch_size": 2, "sink_mode": False},
    "context": {"mode": 0, "device_target": "CPU"},
    "parallel": {"parallel_mode": 1},
    "parallel_config": {"data_parallel": 1, "model_parallel": 2, "pipeline_stage": 1},
    "model": {"model_config": {"type": "LlamaConfig"}, "arch": {"type": "LlamaForCausalLM"}},
    "callbacks": [{"type": "MFLossMonitor"}, {"type": "CheckpointMonitor", "prefix": "llama"}],
}


def written(folder: Path, **keys: object) -> Path:
    """The job beside its files."""
    (folder / "trainer.py").write_text(TRAINER)
    (folder / "llama.yaml").write_text(yaml.safe_dump(RUN_YAML, sort_keys=False))
    job = {
        "name": "llama",
        "task": "mindformers",
        "devices_per_host": 1,
        "device_target": "CPU",
        "mindformers": {"config": "llama.yaml", "run_mode": "train", "script": "trainer.py"},
        "networking": {"mode": "dynamic"},
        "restart": {"max": 1},
        "env": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        **keys,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def test_it_goes_on_from_the_newest_step_that_all_ranks_have(tmp_path: Path) -> None:
    job = written(tmp_path)
    cluster = Cluster.local(tmp_path, devices="0", python=sys.executable)
    try:
        done = cluster.launch(job)
        assert done.returncode == 0, done.stdout + done.stderr
        for rank, run in enumerate(sorted(cluster.run_dirs())):
            # Of step 16 rank 1 alone has a file, of step 12 both.
            load = run / "attempts/2/load"
            (loaded,) = load.rglob("*.ckpt")
            assert loaded == load / f"rank_{rank}/llama_rank_{rank}-2_2.ckpt"
            saved = run / f"attempts/1/checkpoint/rank_{rank}/llama_rank_{rank}-2_2.ckpt"
            assert loaded.stat().st_ino == saved.stat().st_ino
            said = yaml.safe_load((run / "attempts/2/mindformers.yaml").read_text())
            assert (said["load_checkpoint"], said["resume_training"]) == (
                "./attempts/2/load",
                "llama_rank_0-2_2.ckpt",
            )
        first, second = cluster.status()["attempts"]
        assert (first["decision"]["choice"], second["origin"]) == ("again", [1, 12])
        collected = cluster.run("collect-ckpt", "--replicated", "--with-optimizer", "-o", "out.ckpt")
        assert collected.returncode == 0, collected.stdout + collected.stderr
        assert "step 28, " in collected.stdout
        held = {name: each.array().tolist() for name, each in read_ckpt(tmp_path / "out.ckpt").items()}
        assert held == {"w": [28] * 4, "adam_m.w": [28] * 4, "step_num": 28}
    finally:
        cluster.close()


def test_a_run_whose_one_hosts_disk_is_gone_is_collected_and_goes_on_from_copies(tmp_path: Path) -> None:
    job = written(tmp_path, checkpoint={"copies": 1}, timeouts={"grace": 15})
    cluster = Cluster.local(tmp_path, devices="0", python=sys.executable)
    inventory = yaml.safe_load(cluster.inventory.read_text())
    inventory["copy"] = {"network": "127.0.0.0/8", "ports": "29700-29731"}
    cluster.inventory.write_text(yaml.safe_dump(inventory))
    try:
        done = cluster.launch(job)
        assert done.returncode == 0, done.stdout + done.stderr
        status = cluster.status()
        copies = {name: view["status"]["copies"] for name, view in status["hosts"].items()}
        assert {name: (one["step"], one["lag"]) for name, one in copies.items()} == {
            "host1": (28, 0),
            "host2": (28, 0),
        }
        shutil.rmtree(tmp_path / "hosts/host1")
        collected = cluster.run("collect-ckpt", "--replicated", "-o", "out.ckpt")
        assert collected.returncode == 0 and "step 28, " in collected.stdout, collected.stderr
        done = cluster.run("resume", status["run_id"], "--step", "28")
        assert done.returncode == 0, done.stdout + done.stderr
        run = tmp_path / "hosts/host1/runs" / status["run_id"]
        attempt = cluster.status()["attempts"][-1]
        assert (attempt["state"], attempt["origin"][1]) == ("succeeded", 28)
        # Attempt 2 began anew within its epoch, from step 12: it is the name that counts otherwise.
        (loaded,) = (run / f"attempts/{attempt['number']}/load").rglob("*.ckpt")
        assert loaded.parent.name == "rank_0" and read_ckpt(loaded)["step_num"].array() == 28
    finally:
        cluster.close()
