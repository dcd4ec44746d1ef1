"""A launch that distributes its checkpoint, with real workers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from model.config.prompt_templates import wrap
from orchestrator.checkpoint.files.tensor_files import write_ckpt
from orchestrator.testing.local_cluster import Cluster
from orchestrator.transfer.inspect import diff

pytestmark = pytest.mark.mindspore
ONE_LAYER = {"num_layers": 1}  # which compiles sooner


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster.local(tmp_path, devices="0")
    yield cluster
    cluster.close()


def save_whole(path: Path) -> None:
    """A tiny Bloom of its own, as collect-ckpt leaves one."""
    os.environ.setdefault("GLOG_v", "3")
    pytest.importorskip("mindspore")
    from model.config.load_config import load_config
    from model.network.build import build, initialise
    from model.parallel.mesh import Place, Strategy

    config = load_config("tiny", ONE_LAYER)
    network = build(config)
    initialise(network, config, 7, Strategy(), Place(0, 0, 0, 0))
    write_ckpt(path, [(item.name, item.asnumpy()) for item in network.get_parameters()])


def save_tokenizer(path: Path, texts: list[str]) -> None:
    """One for a tiny Bloom, in a folder of its own: what lies beside the weights would be sent with them."""
    from model.config.load_config import load_config
    from model.data.tokenizer import train_tokenizer

    path.parent.mkdir()
    path.write_text(train_tokenizer(texts, load_config("tiny")).to_json())


def test_ranks_start_from_the_slices_that_their_host_was_sent(cluster: Cluster, tmp_path: Path) -> None:
    save_whole(tmp_path / "whole.ckpt")
    records = [{"instruction": f"say {n}", "input": "", "output": f"{n}"} for n in range(8)]
    (tmp_path / "data.json").write_text(json.dumps(records))
    save_tokenizer(
        tmp_path / "words/tokenizer.json",
        [wrap(record["instruction"]) + record["output"] for record in records],
    )
    job = {
        "name": "tune",
        "task": "finetune",
        "devices_per_host": 1,
        "parallel": {"model_parallel": 2},
        "model": {"preset": "tiny", "overrides": ONE_LAYER},
        "data": {"path": "data.json", "tokenizer": "words/tokenizer.json", "seq_length": 32},
        # A step so small that float32 does not feel it: what is saved is what was loaded.
        "train": {
            "steps": 1,
            "batch_size": 2,
            "learning_rate": 1e-30,
            "lr_schedule": "constant",
            "weight_decay": 0,
        },
        "checkpoint": {"load": "whole.ckpt", "distribute": True},
    }
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(job))
    launched = cluster.launch(tmp_path / "tune.yaml")
    assert launched.returncode == 0, launched.stderr + cluster.run("logs").stdout
    for host, rank in (("host1", 0), ("host2", 1)):
        (loaded,) = (tmp_path / "hosts" / host / "runs").glob("*/inputs/load")
        assert os.listdir(loaded) == [f"rank_{rank}"]
        assert not list((tmp_path / "hosts" / host).rglob("whole.ckpt"))
    assert cluster.run("collect-ckpt", "-o", tmp_path / "again.ckpt").returncode == 0
    assert diff(tmp_path / "whole.ckpt", tmp_path / "again.ckpt", atol=1e-20) == []
    words = ("--job", tmp_path / "tune.yaml", "-i", cluster.inventory)
    again = cluster.run("distribute-ckpt", tmp_path / "whole.ckpt", *words)
    assert ": 0 B sent, " in again.stdout
