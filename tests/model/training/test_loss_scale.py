from __future__ import annotations

import pytest

from model.errors import ModelError
from model.training.step import LossScale, loss_scale_of


def test_an_overflow_halves_and_a_window_of_good_steps_doubles():
    scale = LossScale(8.0, window=2)
    seen = []
    for overflow in (False, False, False, True, False, False):
        scale.update(overflow)
        seen.append(scale.value)
    assert seen == [8, 16, 16, 8, 8, 16]


def test_it_ends_at_one_and_then_cannot_help():
    scale = LossScale(2.0, window=5)
    assert scale.can_shrink
    scale.update(True)
    assert scale.value == 1 and not scale.can_shrink
    scale.update(True)
    assert scale.value == 1


def test_it_does_not_grow_without_end():
    scale = LossScale(LossScale.HIGHEST, window=1)
    scale.update(False)
    assert scale.value == LossScale.HIGHEST


def test_from_the_settings():
    assert loss_scale_of(None, 65536, 1000) == LossScale(1.0)
    assert loss_scale_of(128, 65536, 1000) == LossScale(128.0)
    assert loss_scale_of("dynamic", 65536, 1000) == LossScale(65536, 1000)
    fixed = loss_scale_of(128, 65536, 1000)
    fixed.update(True)
    assert fixed.value == 128 and not fixed.can_shrink
    with pytest.raises(ModelError, match=r"train.loss_scale: must be dynamic or a number, not 'static'"):
        loss_scale_of("static", 1, 1)
