from __future__ import annotations

import pytest

from model.errors import ModelError
from model.training.optimizer import rate_at

OPTIONS = {"total_steps": 110, "warmup_steps": 10, "peak": 1.0, "end": 0.1}


def test_warm_up_then_cosine():
    rates = [rate_at(step, **OPTIONS) for step in range(1, 111)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[59] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_other_shapes_and_edges():
    assert rate_at(60, **OPTIONS, shape="linear") == pytest.approx(0.55)
    assert rate_at(100, **OPTIONS, shape="constant") == 1.0
    assert rate_at(1, total_steps=1, warmup_steps=0, peak=1.0, end=0.0) == pytest.approx(0.0)
    assert rate_at(3, total_steps=3, warmup_steps=5, peak=1.0, end=0.0) == pytest.approx(0.6)
    with pytest.raises(ModelError, match=r"train.lr_schedule: no schedule is called 'step'"):
        rate_at(1, **OPTIONS, shape="step")
