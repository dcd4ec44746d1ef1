"""Detection of overflow on devices whose numbers saturate: a register shows it, as no infinity appears.

An Ascend 910A gives the largest finite number where IEEE 754 gives infinity (CANN's aclrtSetDeviceSatMode:
the 910A has this mode only), and so does a later chip with MS_ASCEND_CHECK_OVERFLOW_MODE=SATURATION_MODE.
That something overflowed stays in a register until it is cleared; MindSpore's own loss scaling reads it with
the same two operators (`nn.TrainOneStepWithLossScaleCell`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
from mindspore import Tensor, nn
from mindspore.ops.operations.math_ops import NPUClearFloatStatusV2, NPUGetFloatStatusV2

from model.devices.device import Device, current_device
from model.errors import TrainingError

__all__ = ["OverflowRegister", "overflow_register", "saturates"]

_REMEDY = "set model.overrides.compute_dtype to float32"


def saturates(device: Device, env: Mapping[str, str] = os.environ) -> bool:
    """Whether an overflow on this device leaves finite numbers."""
    if not device.is_ascend:
        return False
    return device.chip == "ascend910" or env.get("MS_ASCEND_CHECK_OVERFLOW_MODE") == "SATURATION_MODE"


class StatusGraph(nn.Cell):
    """A graph of one of the register's two operators; (8,) int32, without meaning -> (8,) int32.

    NPUClearFloatStatusV2 clears the register and gives nothing of meaning; what NPUGetFloatStatusV2 gives is
    all 0 where nothing overflowed.
    """

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__(auto_prefix=False)
        self.operator = operator

    def construct(self, status: Tensor) -> Tensor:
        return self.operator(status)


class Doubled(nn.Cell):
    """float16 -> float16, twice the value."""

    def construct(self, x: Tensor) -> Tensor:
        return x + x


class OverflowRegister:
    """This rank's register. Graphs of their own read and clear it: kernels run in the order of their launch.

    So one stands before the first and one behind the last graph of a step, however many there are of them.
    """

    def __init__(
        self,
        clear: Callable[[Tensor], Tensor] | None = None,
        get: Callable[[Tensor], Tensor] | None = None,
        double: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._clear = StatusGraph(clear or NPUClearFloatStatusV2())
        self._status = StatusGraph(get or NPUGetFloatStatusV2())
        self._double = double or Doubled()
        self._nothing = Tensor(np.zeros(8, np.int32))

    def clear(self) -> None:
        """Begin to look."""
        self._clear(self._nothing)

    def is_set(self) -> bool:
        """Whether anything overflowed since it was cleared; waits for the device."""
        return bool(self._status(self._nothing).asnumpy().any())

    def check(self) -> None:
        """Overflow once on purpose, and once not. Raises TrainingError where the two look alike."""
        seen = []
        for value in (60000.0, 1.0):
            self.clear()
            twice = self._double(Tensor(np.full(16, value, np.float16))).asnumpy()
            seen.append(self.is_set() or not np.isfinite(twice).all())
        self.clear()
        if seen != [True, False]:
            what = "the overflow register does not clear" if seen[0] else "an overflow of float16 is not seen"
            raise TrainingError(what, where=str(current_device().chip), remedy=_REMEDY)


def overflow_register(
    compute_dtype: str,
    device: Device | None = None,
    make: Callable[[], OverflowRegister] = OverflowRegister,
) -> OverflowRegister | None:
    """The current device's register; None where an overflow gives infinity.

    It is shown to work where that is needed: for other types than float32. Raises TrainingError.
    """
    if not saturates(device or current_device()):
        return None
    register = make()
    if compute_dtype != "float32":
        register.check()
    return register
