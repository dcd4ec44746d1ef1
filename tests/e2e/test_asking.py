"""Jobs that answer, asked over the run's own channel: one rank, and two with one model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.testing.local_cluster import Cluster
from tests.model.support.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.mindspore
Make = Callable[..., Cluster]


def job(cluster: Cluster, task: str, **keys: Any) -> Path:
    """A job of two ranks that share the model on one host, if not told otherwise, and their checkpoint."""
    config = yaml.safe_load((cluster.folder / "config.yaml").read_text())
    data = {
        "name": task,
        "task": task,
        "host_count": 1,
        "devices_per_host": 2,
        "parallel": {"model_parallel": 2},
        "model": {"preset": "tiny"},
        "data": {"seq_length": config["seq_length"], "template": "none"},
        "checkpoint": {"load": "tiny.ckpt"},
        "env": {"OMP_NUM_THREADS": 1},
        "timeouts": {"grace": 2, "prepare": 60},
    }
    path = cluster.folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump({**data, **keys}))
    return path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("asking")
    write_tiny_checkpoint(folder)
    cluster = Cluster.local(folder)
    yield cluster
    cluster.close()


def test_a_prediction_answers_in_the_order_of_its_prompts(cluster: Cluster) -> None:
    records = [
        {"prompt": "Why is the sky blue?"},
        {"instruction": "What is the capital", "input": "of France?"},
    ]
    prompts = cluster.folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(record) + "\n" for record in records))
    options = {"prompts": ["Hello"], "prompts_file": "prompts.jsonl", "batch_size": 2, "max_new_tokens": 4}
    # Of more ranks: test_trainer.py.
    done = cluster.launch(job(cluster, "predict", devices_per_host=1, parallel={}, predict=options))
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in cluster.run("answers").stdout.splitlines()]
    assert [answer["prompt"] for answer in told] == ["Hello", "Why is the sky blue?", "What is the capital"]
    assert all(0 < answer["new_tokens"] <= 4 and answer["seconds"] > 0 for answer in told)
    assert all(answer["prompt_tokens"] > 0 for answer in told)
    written = cluster.run("answers", "-o", "all.jsonl")
    assert written.stdout == "all.jsonl: 3 answers\n"
    refused = cluster.run("chat")
    assert refused.returncode == 2 and "is no chat: its task is predict" in refused.stderr


def test_a_chat_streams_its_answers_and_lives_on_when_its_client_vanishes(cluster: Cluster) -> None:
    done = cluster.launch(job(cluster, "chat", chat={"max_new_tokens": 40}), "--detach")
    assert done.returncode == 0, done.stdout + done.stderr

    def ask(*questions: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            cluster.argv("chat"),
            env=cluster.env,
            cwd=cluster.folder,
            input="".join(f"{question}\n" for question in questions),
            capture_output=True,
            text=True,
            timeout=300,
        )

    # At once: it waits while the model is loaded, and says so.
    first = ask("Why is the sky blue?")
    assert first.returncode == 0 and first.stdout.strip(), first.stderr
    assert first.stderr.startswith("waiting: ")
    # Alone or after another question, the first answer is the same; the second knows what was said before.
    both = ask("Why is the sky blue?", "What is the capital of France?")
    assert both.stdout.startswith(first.stdout) and len(both.stdout) > len(first.stdout)
    client = subprocess.Popen(
        cluster.argv("chat"),
        env=cluster.env,
        cwd=cluster.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert client.stdin is not None
    client.stdin.write(b"Why is the sky blue?\n")
    client.stdin.flush()
    client.kill()
    client.wait()
    assert ask("Why is the sky blue?").stdout == first.stdout
    too_long = ask("why " * 60)
    assert too_long.returncode == 1 and "leaves no room in seq_length 48" in too_long.stderr
    typed = [cluster.argv("chat"), b"Why is the sky \xff?\n"]
    broken = subprocess.run(
        typed[0], env=cluster.env, cwd=cluster.folder, input=typed[1], capture_output=True
    )
    assert broken.returncode == 2 and b"line 1 of the questions: byte 15 is no utf-8" in broken.stderr
    assert set(cluster.states().values()) == {"running"}
    assert cluster.run("stop").returncode == 0
    over = ask("still there?")
    assert over.returncode == 2 and "has stopped" in over.stderr
