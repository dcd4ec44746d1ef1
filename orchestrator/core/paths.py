"""Every path that the project uses, on a host and on the control node, and the way files are replaced.

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["ControlDir", "RunDir", "Workdir", "atomic_write", "state_root"]


def atomic_write(path: Path, data: bytes | str, mode: int = 0o600) -> None:
    """Replace `path` so that a reader sees the old bytes or the new ones, never a part."""
    payload = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=str(path.parent))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink()
        raise


class Workdir:
    """What the orchestrator keeps on one host."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(os.path.expanduser(str(root))).absolute()

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def store(self) -> Path:
        """Code and input files, each under the SHA-256 of its content."""
        return self.root / "store"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.runs / run_id)


class RunDir:
    """One run on one host."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def rank_table(self) -> Path:
        return self.root / "rank_table.json"

    @property
    def worker_config(self) -> Path:
        return self.root / "worker.yaml"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def control_socket(self) -> Path:
        return self.root / "control.sock"

    @property
    def chat_socket(self) -> Path:
        """Where the first worker of a chat job listens."""
        return self.root / "chat.sock"

    @property
    def supervisor_log(self) -> Path:
        return self.root / "logs" / "supervisor.log"

    @property
    def model(self) -> Path:
        """What is needed beside the weights: the model's configuration and the tokenizer."""
        return self.root / "model"

    @property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @property
    def strategy(self) -> Path:
        return self.root / "strategy"

    def log(self, label: str) -> Path:
        """A worker's output; `label` is `rank_<r>` or `scheduler`."""
        return self.root / "logs" / f"{label}.log"

    @property
    def plogs(self) -> Path:
        """CANN's own logs, a folder for each worker and the scheduler."""
        return self.root / "logs" / "plog"

    def metrics(self, rank: int) -> Path:
        return self.root / "metrics" / f"rank_{rank}.jsonl"

    def done(self, label: str) -> Path:
        """Made by a worker whose work is done: how its process then ends is no matter of the run."""
        return self.root / "done" / label

    def make(self) -> None:
        """Create the tree. Raises FileExistsError where the run is already there."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(mode=0o700)
        for name in ("logs", "metrics", "strategy", "checkpoint", "model", "inputs", "done"):
            (self.root / name).mkdir()


def state_root() -> Path:
    """`$XDG_STATE_HOME/orchestrate`, by default `~/.local/state/orchestrate`."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "orchestrate"


class ControlDir:
    """One run on the control node: the plan as launched and what the monitor knows."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def record(self) -> Path:
        return self.root / "record.json"

    @property
    def monitor_log(self) -> Path:
        return self.root / "monitor.log"

    @property
    def monitor_lock(self) -> Path:
        """Held with flock by the run's monitor while it lives."""
        return self.root / "monitor.lock"
