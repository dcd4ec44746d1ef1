"""Metrics of a step, and the file that the monitor reads them from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from orchestrator.families.network_config import NetworkConfig

__all__ = ["MetricsFile", "StepRecord", "flops_per_token", "utilisation"]

_DIGITS = {"tokens_per_s": 1, "step_time_s": 4, "mfu": 4, "compute_s": 4}


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of metrics; `loss`, `grad_norm` and `tokens_per_s` are of all replicas together."""

    step: int
    total_steps: int
    loss: float
    lr: float
    tokens_per_s: float
    step_time_s: float
    time: float
    grad_norm: float  # before clipping
    loss_scale: float | None = None  # where there is one
    skipped: bool = False  # the gradients overflowed, the weights are as before
    mfu: float | None = None  # model FLOPs utilisation, where the device's peak is known
    compute_s: float | None = None  # until this rank waited for the others, where that can be told


def flops_per_token(config: NetworkConfig) -> float:
    """Forward and backward, as in "PaLM" (Chowdhery et al., 2022), appendix B: 6N + 12LhS.

    N counts the embedding table, which is also the head; what recompute does again does not count.
    """
    attention = 12 * config.num_layers * config.hidden_size * config.seq_length
    return 6.0 * config.parameter_count + attention


def utilisation(
    config: NetworkConfig, tokens_per_s: float, devices: int, device_tflops: float | None
) -> float | None:
    """The share of the devices' peak that the model's own arithmetic takes; None without a known peak."""
    if device_tflops is None:
        return None
    return flops_per_token(config) * tokens_per_s / (devices * device_tflops * 1e12)


class MetricsFile:
    """`metrics/rank_<r>.jsonl`: one line a step, at once; without NaN, infinities and what is unknown."""

    def __init__(self, home: Path, rank: int) -> None:
        self._path = home / "metrics" / f"rank_{rank}.jsonl"

    def __enter__(self) -> MetricsFile:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = self._path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, record: StepRecord) -> None:
        values = {name: value for name, value in asdict(record).items() if _is_written(value)}
        for name, digits in _DIGITS.items():
            if name in values:
                values[name] = round(values[name], digits)
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()


def _is_written(value: float | None) -> bool:
    # JSON has no NaN, and an overflow that was skipped is rare enough to be all that `skipped` says.
    return value is not None and value is not False and math.isfinite(value)
