from __future__ import annotations

import json
import math

import pytest

from model.config.load_config import load_config
from model.training.metrics import MetricsFile, StepRecord, flops_per_token, utilisation

RECORD = {"total_steps": 9, "lr": 1e-3, "tokens_per_s": 10.123, "step_time_s": 0.123456, "time": 1.0}


def test_what_is_no_number_or_not_known_is_left_out(tmp_path):
    with MetricsFile(tmp_path, 3) as metrics:
        metrics.append(StepRecord(step=1, loss=2.5, grad_norm=1.5, mfu=0.41237, loss_scale=8.0, **RECORD))
        metrics.append(StepRecord(step=2, loss=math.nan, grad_norm=math.inf, skipped=True, **RECORD))
    first, second = map(json.loads, (tmp_path / "metrics/rank_3.jsonl").read_text().splitlines())
    assert first == {
        **RECORD, "step": 1, "loss": 2.5, "grad_norm": 1.5, "mfu": 0.4124, "loss_scale": 8.0,
        "tokens_per_s": 10.1, "step_time_s": 0.1235,
    }  # fmt: skip
    assert second["skipped"] is True and not {"loss", "grad_norm", "mfu", "loss_scale"} & set(second)


def test_utilisation_of_the_published_speed_is_plausible():
    # MindFormers' page: 7.1b, 1063 tokens/s for each of 8 devices of 256 TFLOP/s.
    config = load_config("7.1b")
    assert flops_per_token(config) == pytest.approx(6 * 7.069e9 + 12 * 30 * 4096 * 2048, rel=1e-3)
    assert utilisation(config, 8 * 1063, 8, 256.0) == pytest.approx(0.19, abs=0.01)
    assert utilisation(config, 1.0, 1, None) is None
