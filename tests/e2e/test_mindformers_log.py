"""A stand-in for MindFormers, started as it is: what it logs is what everybody sees of the run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.waiting import eventually

# It logs as MindFormers 1.9.0 does, saves, and waits until it is told.
PROGRAM = """
    import logging, os, sys, time
    assert sys.argv[1] == "--config" and os.path.exists(sys.argv[2])
    log = logging.Logger("mindformers/output/log")
    out = logging.StreamHandler(sys.stdout)
    out.setFormatter(logging.Formatter(
        "%(asctime)s - %(name)s[mindformers/core/callback/callback.py:747] - %(levelname)s - %(message)s"))
    log.addHandler(out)
    log.info(".........Model Compiling, Please Wait a Moment...........")
    for n in range(1, 9):
        done, loss = (n - 1) // 4, 8.0 - n / 4
        log.info("{ Epoch:[%3d/%3d], step:[%5d/%5d], loss:[%5.6f/%5.6f], per_step_time: %dms, lr: %s, "
                 "overflow cond: %s, loss_scale: %s, global_norm: %s",
                 1 + done, 2, n - 4 * done, 4, loss, loss, 200, 1e-5, n == 2, 1.0, "[0.5]")
        log.info("  %4.1f%% %s %.5f samples/s/p  %s }", n / 8 * 100, "|" + " " * 50 + "|", 10.0, "0:00:01")
        if n == 4:
            log.info("......Saving ckpt......")
            log.info("step_num: 4")
            log.info("Finish saving ckpt of epoch 1 step 4 using 0.010 seconds")
        if n == 6:
            while not os.path.exists("go"):
                time.sleep(0.05)
        time.sleep(0.05)
    log.info(".........Training Over!.............")
"""
RUN_YAML = {
    "run_mode": "train",
    "trainer": {"type": "CausalLanguageModelingTrainer"},
    "runner_config": {"epochs": 2, "batch_size": 2, "sink_mode": False},
    "model": {
        "model_config": {"type": "LlamaConfig", "seq_length": 64},
        "arch": {"type": "LlamaForCausalLM"},
    },
    "parallel_config": {"data_parallel": 1, "model_parallel": 1, "pipeline_stage": 1},
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster.local(tmp_path, hosts=1)
    yield cluster
    cluster.close()


def installed(folder: Path) -> Path:
    """A folder of packages in which there is a MindFormers, as far as a check looks."""
    packages = folder / "packages"
    about = packages / "mindformers-1.9.0.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: mindformers\nVersion: 1.9.0\n")
    return packages


def metrics(cluster: Cluster) -> list[dict[str, Any]]:
    [path] = cluster.folder.glob("hosts/*/runs/*/attempts/1/metrics/rank_0.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_mindformers_logs_is_seen_in_status_and_metrics(cluster: Cluster) -> None:
    folder = cluster.folder
    (folder / "train.py").write_text(textwrap.dedent(PROGRAM))
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(RUN_YAML))
    job = {
        "name": "job",
        "task": "mindformers",
        "hosts": "all",
        "devices_per_host": 1,
        "device_target": "CPU",
        "mindformers": {"config": "pretrain.yaml", "script": "train.py"},
        "networking": {"mode": "none"},
        "env": {"PYTHONPATH": str(installed(folder))},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    with cluster.launching(folder / "job.yaml") as launch:
        told = eventually(
            lambda: (
                bool(cluster.controls()) and (found := cluster.status()["summary"])["step"] == 6 and found
            ),
            timeout=40,
            what="step 6",
        )
        assert (told["total_steps"], told["loss"], told["tokens_per_s"]) == (8, 6.5, 10.0 * 64)
        ranks = [rank for host in cluster.status()["hosts"].values() for rank in host["status"]["ranks"]]
        assert [(rank["phase"], rank["saved"]) for rank in ranks] == [("step", 4)]
        for home in cluster.run_dirs():
            (home / "go").touch()
        out, err = launch.communicate(timeout=40)
    assert launch.returncode == 0, out + err
    rows = [line for line in metrics(cluster) if "phase" not in line]
    assert [(line["step"], line["loss"]) for line in rows] == [(n, 8.0 - n / 4) for n in range(1, 9)]
    assert [line["step"] for line in rows if line.get("skipped")] == [2]
