"""Overflow where numbers saturate: read from the register, shared by all ranks, the step skipped.

The two operators exist on an Ascend only. In their place stand cells of the same interface, whose register is
a parameter, which the tests set as an overflowing kernel would.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from model.devices.device import Device
from model.errors import TrainingError
from model.training.overflow import Doubled, OverflowRegister, StatusGraph, overflow_register, saturates
from model.training.step import LossScale, Results, TrainStep, scalar


class Hardware:
    """A register of 8 int32; `overflow` is what a kernel does to it."""

    def __init__(self):
        self.register = ms.Parameter(ms.Tensor(np.zeros(8, np.int32)), name="register")

    def overflow(self):
        self.register.set_data(ms.Tensor(np.array([0, 0, 1, 0, 0, 0, 0, 0], np.int32)))

    def stand_ins(self):
        return Clear(self.register), Get(self.register)


class Clear(nn.Cell):
    """As NPUClearFloatStatusV2: (8,) int32 -> (8,) int32."""

    def __init__(self, register):
        super().__init__(auto_prefix=False)
        self.register = register

    def construct(self, status):
        return ops.depend(status, ops.assign(self.register, ops.zeros_like(self.register)))


class Get(nn.Cell):
    """As NPUGetFloatStatusV2: (8,) int32 -> (8,) int32, without changing the register."""

    def __init__(self, register):
        super().__init__(auto_prefix=False)
        self.register = register

    def construct(self, status):
        return status * 0 + self.register


@pytest.fixture
def hardware():
    return Hardware()


def saturating(hardware):
    """Twice a float16, as an Ascend 910A gives it."""

    def double(x):
        if (np.abs(2 * x.asnumpy().astype(np.float32)) > 65504).any():
            hardware.overflow()
        return ms.Tensor(np.minimum(2 * x.asnumpy().astype(np.float32), 65504).astype(np.float16))

    return double


def test_which_devices_saturate():
    assert saturates(Device("Ascend", "ascend910"), {})
    assert not saturates(Device("Ascend", "ascend910b"), {})
    assert saturates(Device("Ascend", "ascend910b"), {"MS_ASCEND_CHECK_OVERFLOW_MODE": "SATURATION_MODE"})
    assert not saturates(Device("Ascend", "ascend910b"), {"MS_ASCEND_CHECK_OVERFLOW_MODE": "INFNAN_MODE"})
    assert not saturates(Device("CPU"), {"MS_ASCEND_CHECK_OVERFLOW_MODE": "SATURATION_MODE"})
    assert overflow_register("float16", Device("CPU")) is None
    assert overflow_register("float16", Device("Ascend", "ascend910_93")) is None


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: StatusGraph(OverflowRegister()._clear.operator), "NPUClearFloatStatusV2"),
        (lambda: StatusGraph(OverflowRegister()._status.operator), "NPUGetFloatStatusV2"),
    ],
)
def test_the_real_operators_take_these_shapes_and_types(make, name):
    """Inference passes; that a CPU has no such kernel is all that it says."""
    with pytest.raises(RuntimeError, match=rf"Unsupported op \[{name}\] on CPU"):
        make().compile(ms.Tensor(np.zeros(8, np.int32)))


def test_a_register_is_shown_to_work_before_it_is_trusted(hardware):
    register = OverflowRegister(*hardware.stand_ins(), saturating(hardware))
    assert overflow_register("float16", Device("Ascend", "ascend910"), lambda: register) is register
    assert not register.is_set()
    blind = OverflowRegister(*Hardware().stand_ins(), saturating(hardware))
    with pytest.raises(TrainingError, match="an overflow of float16 is not seen"):
        overflow_register("float16", Device("Ascend", "ascend910"), lambda: blind)
    assert overflow_register("float32", Device("Ascend", "ascend910"), lambda: blind) is blind
    stuck = OverflowRegister(nn.Identity(), hardware.stand_ins()[1], saturating(hardware))
    with pytest.raises(TrainingError, match="the overflow register does not clear"):
        stuck.check()
    # Where the chip gives infinity all the same, that is seen, too.
    OverflowRegister(*Hardware().stand_ins(), Doubled()).check()


class Source:
    """Gradients of which those of step `bad` overflowed, and saturated: no number says so."""

    def __init__(self, hardware, bad):
        self.hardware, self.bad, self.step = hardware, bad, 0

    def gradients(self, batch, scale, asked):
        self.step += 1
        if self.step == self.bad:
            self.hardware.overflow()
        gradients = (ms.Tensor(np.float32([1.0])),)
        return Results(scalar(2.5), scalar(1.0), scalar(0.0), gradients, [scalar(0.0)])

    def graph(self, batch, scale):
        return None


class Updates:
    def __init__(self):
        self.count = 0

    def __call__(self, grads, rate, factor):
        self.count += 1


def steps(hardware, bad, gather, loss_scale, count=3):
    updates, register = Updates(), OverflowRegister(*hardware.stand_ins())
    step = TrainStep(Source(hardware, bad), updates, gather=gather, loss_scale=loss_scale, register=register)
    return step, updates, [step(None, 0.1) for _ in range(count)]


def of_two(here, neighbours):
    """What two ranks give: this one's flag as rank `here`, and the other's of each step."""
    said = iter(neighbours)

    def gather(values):
        other = np.array([next(said, 0.0)], np.float32)
        return np.stack([values, other] if here == 0 else [other, values])

    return gather


@pytest.mark.parametrize(
    ("bad", "neighbours"),
    [(2, (0, 0, 0)), (None, (0, 1, 0))],
    ids=["on this rank", "on the other"],
)
def test_every_rank_skips_the_step_and_halves_the_scale(hardware, bad, neighbours):
    step, updates, results = steps(hardware, bad, of_two(0, neighbours), LossScale(1024.0, window=100))
    assert [result.updated for result in results] == [True, False, True]
    assert [result.skipped for result in results] == [False, True, False]
    assert [result.loss_scale for result in results] == [1024, 1024, 512]
    assert updates.count == 2 and step.loss_scale.value == 512


def test_without_a_scale_to_lower_the_rank_is_named(hardware):
    _, updates, results = steps(hardware, 1, of_two(1, (0,)), LossScale(), count=1)
    (result,) = results
    assert not result.updated and not result.skipped and updates.count == 0
    assert result.saturated and result.origins == (1,)
    assert result.loss == 2.5, "the number itself tells nothing"


def test_without_a_register_nothing_is_asked(hardware):
    asked = []
    step = TrainStep(Source(hardware, 1), Updates(), gather=lambda values: asked.append(values))
    assert step(None, 0.1).updated and not asked
