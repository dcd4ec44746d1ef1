"""Real worker processes on this machine: one scheduler, N ranks, as the supervisor starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from orchestrator.core.paths import RunDir

__all__ = ["MODEL", "launch", "run_alone", "running", "start", "tails", "write_job"]

ROOT = Path(__file__).parents[3]
MODEL = (sys.executable, "-m", "model")


def write_job(folder: Path, **sections: Any) -> Path:
    """A worker.yaml in `folder`; sections are merged into a small fine-tuning job."""
    job: dict[str, Any] = {
        "run_id": "test",
        "task": "finetune",
        "device_target": "CPU",
        "parallel": {},
        "model": {"preset": "tiny", "overrides": {"hidden_act": "gelu"}},
        "data": {"path": str(ROOT / "jobs/data/demo.json"), "seq_length": 64, "limit": 60},
        "train": {"steps": 6, "batch_size": 4, "learning_rate": 5e-3, "warmup_steps": 2},
        "checkpoint": {"save_steps": 3, "keep": 2},
    }
    for name, values in sections.items():
        both = isinstance(values, dict) and isinstance(job.get(name), dict)
        job[name] = {**job[name], **values} if both else values
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "worker.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GLOG_v": "3",
        "MS_CPU_COMM_OP_TIMEOUT": "120",
        **more,
    }


def run_alone(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """One process of the package to its end."""
    return subprocess.run(
        [*MODEL, *arguments],
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=300,
    )


def launch(folder: Path, verb: str, ranks: int, timeout: float = 400) -> None:
    """Run `python -m model <verb>` on every rank; fails unless all, the scheduler too, exit 0."""
    codes = start(folder, [*MODEL, verb, "--config", "worker.yaml"], ranks, timeout)
    assert set(codes.values()) == {0}, f"{codes}\n{tails(folder, codes)}"


def start(
    folder: Path, command: Sequence[str], ranks: int, timeout: float = 400, **more: str
) -> dict[str, int | None]:
    """Run the command as a scheduler and N ranks until all have ended or one has failed: exit codes."""
    with running(folder, command, ranks, **more) as started:
        return _wait(folder, started, time.monotonic() + timeout)


@contextmanager
def running(
    folder: Path, command: Sequence[str], ranks: int, **more: str
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The command as a scheduler and N ranks, by label; what still runs in the end is killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(port), "MS_WORKER_NUM": str(ranks)}
    shared |= more
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        started["scheduler"] = _start(folder, command, "scheduler", {**shared, "MS_ROLE": "MS_SCHED"})
        for rank in range(ranks):
            own = {"MS_NODE_ID": str(rank), "RANK_ID": str(rank), "DEVICE_ID": str(rank)}
            env = {**shared, **own, "RANK_SIZE": str(ranks), "MS_ROLE": "MS_WORKER"}
            started[f"rank_{rank}"] = _start(folder, command, f"rank_{rank}", env)
        yield started
    finally:
        for process in started.values():
            if process.poll() is None:
                process.kill()
            process.wait()


def _start(
    folder: Path, command: Sequence[str], label: str, env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with (folder / f"{label}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**env),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait(
    folder: Path, started: Mapping[str, subprocess.Popen[bytes]], deadline: float
) -> dict[str, int | None]:
    """Exit codes by label; returns early with None for the rest when one has failed or the time is over.

    As for the supervisor, a crash after the work was done counts as 0 (`model.training.completion`).
    """
    while True:
        codes = {label: process.poll() for label, process in started.items()}
        for label, code in codes.items():
            if code == -signal.SIGSEGV and RunDir(folder).attempt.done(label).exists():
                codes[label] = 0
        ended = [code for code in codes.values() if code is not None]
        if len(ended) == len(codes) or any(ended) or time.monotonic() > deadline:
            return codes
        time.sleep(0.1)


def tails(folder: Path, labels: Sequence[str] | Mapping[str, object]) -> str:
    return "\n".join(f"{label}: {(folder / f'{label}.log').read_text()[-1500:]}" for label in labels)
