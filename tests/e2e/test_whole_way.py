"""From a training over two SSH hosts that is killed, to the same answer by every way of asking."""

from __future__ import annotations

import json
import os
import signal
from ast import literal_eval
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.__main__ import main
from orchestrator.agent.status_file import StatusFile
from orchestrator.testing.local_cluster import Cluster
from orchestrator.testing.ssh_cluster import inventory_of
from orchestrator.testing.sshd import Sshd, why_no_sshd
from orchestrator.testing.waiting import eventually

pytestmark = [
    pytest.mark.mindspore,
    pytest.mark.sshd,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
]
ROOT = Path(__file__).parents[2]
PROMPT = "What is the capital of France?"
TOKENS = 8
# Each rank compiles for seconds: eight are of test-long, where a stage's layers are cut as well.
MODEL = 2 if os.environ.get("REALITY") else 1
RANKS = 4 * MODEL
SAVE = 2
MORE = 10


@pytest.fixture
def hosts(tmp_path: Path, servers: list[Sshd]) -> Iterator[Cluster]:
    """Two hosts over SSH with four devices each."""
    cluster = Cluster(tmp_path, inventory_of(tmp_path, servers, devices="0-3"))
    yield cluster
    cluster.close()


@pytest.fixture
def model_says(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What `python -m model` prints; in this process, because MindSpore takes seconds to import."""

    def says(*words: str | Path) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return says


def job(cluster: Cluster, name: str, **sections: Any) -> Path:
    data = {
        "name": name,
        "model": {"preset": "tiny", "overrides": {"hidden_size": 32, "num_heads": 2}},
        "data": {"seq_length": 48, "template": "none"},
        "env": {"OMP_NUM_THREADS": 1},
        "timeouts": {"grace": 2, "prepare": 60},
    }
    for key, values in sections.items():
        data[key] = {**data[key], **values} if key in data else values
    path = cluster.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def training(cluster: Cluster, name: str, steps: int, **checkpoint: Any) -> Path:
    """Data 2 x model MODEL x stages 2, one stage a host."""
    return job(
        cluster,
        name,
        task="finetune",
        devices_per_host=RANKS // 2,
        parallel={
            "data_parallel": 2,
            "model_parallel": MODEL,
            "pipeline_stage": 2,
            "micro_batch_num": 2,
            "optimizer_shard": True,
        },
        data={"path": str(ROOT / "jobs/data/demo.json"), "limit": 40},
        train={"steps": steps, "batch_size": 4, "learning_rate": 3e-2, "lr_schedule": "constant"},
        checkpoint={"save_steps": SAVE, **checkpoint},
    )


def predicting(cluster: Cluster, name: str, **checkpoint: Any) -> Path:
    """Two ranks that share the model, one on each host."""
    return job(
        cluster,
        name,
        task="predict",
        devices_per_host=1,
        parallel={"model_parallel": 2},
        checkpoint={"load": "whole.ckpt", **checkpoint},
        predict={"prompts": [PROMPT], "max_new_tokens": TOKENS},
    )


def saved(cluster: Cluster) -> list[int]:
    """The steps of all whole shards."""
    found = cluster.folder.glob("hosts/*/runs/*/checkpoint/rank_*/*.ckpt")
    return [int(path.stem.rpartition("_")[2]) for path in found if not path.name.startswith(".")]


def kill_a_rank(cluster: Cluster) -> None:
    """SIGKILL for the last rank but one, by its recorded process."""
    (path,) = cluster.folder.glob("hosts/node3/runs/*/status.json")
    ranks = StatusFile(path, path.parent.parent).read().ranks
    process = next(rank.process for rank in ranks if rank.rank == RANKS - 2)
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)


def on_a_shared_path(cluster: Cluster) -> Path:
    """The shards of both hosts in one folder; on two servers it would be the same path on each."""
    folder = cluster.folder / "earlier"
    folder.mkdir()
    for home in cluster.folder.glob("hosts/*/runs/*/checkpoint/rank_*"):
        (folder / home.name).symlink_to(home)
    return folder


@pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 asks in every way (test-long)")
def test_every_way_of_asking_gives_the_same_answer(hosts: Cluster, model_says: Callable[..., str]) -> None:
    with hosts.launching(training(hosts, "first", steps=10_000)) as first:
        eventually(lambda: RANKS in Counter(saved(hosts)).values(), timeout=300, what="the first shards")
        kill_a_rank(hosts)
        said, _ = first.communicate(timeout=120)
    assert first.returncode == 1 and f"rank {RANKS - 2} on node3 was killed by signal 9" in said, said
    earlier = on_a_shared_path(hosts)
    second = hosts.launch(training(hosts, "second", steps=max(saved(hosts)) + MORE, load=str(earlier)))
    assert second.returncode == 0, second.stdout + second.stderr
    collected = hosts.run("collect-ckpt", "-o", "whole.ckpt")
    assert collected.returncode == 0, collected.stderr

    whole, graphs = hosts.folder / "whole.ckpt", hosts.folder / "graphs"
    length = ("--max-new-tokens", str(TOKENS))
    answer = model_says("generate", "--checkpoint", whole, "--prompt", PROMPT, *length).strip()
    assert len(set(answer.split())) > 2

    paths = [Path(line.removesuffix(": written")) for line in
             model_says("export", "--checkpoint", whole, "-o", graphs).splitlines()]  # fmt: skip
    prefill, decode = (next(path for path in paths if kind in path.name) for kind in ("prefill", "decode"))
    words = ("--prefill_model_path", prefill, "--increment_model_path", decode, "--seq_length", "48")
    told = model_says("infer-mindir", *words, "--template", "--prompt", PROMPT, *length)
    assert literal_eval(told.splitlines()[-1]) == [answer]

    for path in (predicting(hosts, "load_then_shard"), predicting(hosts, "shard_then_load", distribute=True)):
        if path.stem == "shard_then_load":
            sent = hosts.run("distribute-ckpt", whole, "--job", path, "-i", hosts.inventory)
            assert sent.returncode == 0, sent.stderr
        done = hosts.launch(path)
        assert done.returncode == 0, done.stdout + done.stderr
        (line,) = map(json.loads, hosts.run("answers").stdout.splitlines())
        assert line["text"] == answer
