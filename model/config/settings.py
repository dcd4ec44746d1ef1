"""The settings of one worker: worker.yaml, and what the environment says about this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.config.load_config import load_config
from model.errors import ModelError
from orchestrator.config.worker_config import TRAINING, WorkerConfig, read_worker_config
from orchestrator.families.network_config import NetworkConfig

__all__ = ["Settings", "Worker", "load_settings"]


class Settings(WorkerConfig):
    """One worker.yaml, and what follows from it."""

    __slots__ = ()

    @property
    def level(self) -> str:
        """How far MindSpore compiles for an Ascend: O0 kernel by kernel, O1 with chains of them fused.

        MindFormers, too, answers with O0. O2 gives the graph to GE, which makes no communicators for groups.
        """
        return self.jit_level or ("O1" if self.task in TRAINING else "O0")

    def network(self) -> NetworkConfig:
        """The network's config: preset, overrides, then what `data` says of it. Raises ModelError."""
        if self.model is None:
            raise ModelError("is missing", where="model", remedy="name a preset as model.preset")
        overrides = dict(self.model.overrides)
        if self.data.seq_length is not None:
            overrides["seq_length"] = self.data.seq_length
        if self.data.template != "alpaca":
            overrides["prompt_template"] = self.data.template or "none"
        return load_config(self.model.preset, overrides)


def load_settings(path: Path) -> Settings:
    """Read worker.yaml. Raises ConfigError with every problem; see `read_worker_config`."""
    return read_worker_config(path, Settings)


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among the workers, from RANK_ID, RANK_SIZE, DEVICE_ID and MS_ROLE."""

    rank: int = 0
    world_size: int = 1
    device_id: int = 0
    is_scheduler: bool = False

    @staticmethod
    def from_environment(env: Mapping[str, str]) -> Worker:
        """Raise ModelError where a variable is no whole number or the rank is outside the world."""
        rank, size, device = (
            _whole(env, key, default) for key, default in (("RANK_ID", 0), ("RANK_SIZE", 1), ("DEVICE_ID", 0))
        )
        if not 0 <= rank < size:
            raise ModelError(f"RANK_ID is {rank}, but RANK_SIZE is {size}", where="environment")
        return Worker(rank, size, device, env.get("MS_ROLE") == "MS_SCHED")


def _whole(env: Mapping[str, str], key: str, default: int) -> int:
    text = env.get(key) or str(default)
    if not text.isdecimal():
        raise ModelError(f"{key} must be a whole number, not {text!r}", where="environment")
    return int(text)
