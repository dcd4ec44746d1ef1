"""The same global batch on several replicas, on half of them, and on one: the same records, drops, losses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from model.config.settings import Worker, load_settings
from model.training.trainer import train
from tests.model.support.cluster import launch, write_job

pytestmark = [
    pytest.mark.mindspore,
    pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 trains on four replicas (test-long)"),
]

# Each rank compiles for seconds: two, and one with their batch, are also in test_saves_behind_steps.py.
MOST = 4
RATES = {"hidden_dropout_rate": 0.2, "attention_dropout_rate": 0.1}
DROPPING = {"preset": "tiny", "overrides": {"hidden_act": "gelu", "num_layers": 1, **RATES}}
SHORT = {"checkpoint": {"save_steps": None}, "data": {"seq_length": 64}}


def losses_of(folder: Path, *, replicas: int, **share: int) -> list[float]:
    """Of four steps of eight records."""
    path = write_job(
        folder,
        parallel={"data_parallel": replicas},
        model=DROPPING,
        train={"steps": 4, "batch_size": 8 // replicas, **share},
        **SHORT,
    )
    if replicas == 1:
        train(load_settings(path), Worker(), folder, lambda record: None)
    else:
        launch(folder, "train", replicas)
    lines = map(json.loads, (folder / "metrics/rank_0.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "phase" not in line]


def test_on_fewer_replicas_the_losses_are_the_same(tmp_path: Path) -> None:
    on_many = losses_of(tmp_path / "many", replicas=MOST)
    on_one = losses_of(tmp_path / "one", replicas=1, gradient_accumulation=2)
    assert len(on_many) == 4 and len(set(on_many)) == 4
    np.testing.assert_allclose(on_one, on_many, rtol=1e-5)
    on_half = losses_of(tmp_path / "half", replicas=MOST // 2, gradient_accumulation=2)
    np.testing.assert_allclose(on_half, on_many, rtol=1e-5)
