"""The choice of a process's device: the one it has, the one that is asked for, or MindSpore's default.

A process has one device. MindSpore refuses another one after `set_device`, and any after its first operator;
and a `set_device` that it refuses has changed the context's target before. So its state is read first,
and set only where something changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
from mindspore._c_expression import DeviceManagerConf  # only there is it known whether a device was set

from model.devices.device_name import CPU, DeviceName, npus_left_alone
from model.errors import ModelError

__all__ = ["InUse", "compute_deterministically", "device_in_use", "use_device"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InUse:
    """What MindSpore is set to; `is_fixed` where it takes no other device any more."""

    name: DeviceName
    is_fixed: bool


def device_in_use() -> InUse:
    """Ask MindSpore, without setting anything.

    `set_context(device_target=…)`, the older way, leaves no trace but the value; and where nobody has said
    anything, that is MindSpore's own default: Ascend where its libraries are found, else CPU.
    """
    if DeviceManagerConf.get_instance().is_device_enable():
        target, index = ms.get_current_device()
        return InUse(_name(target, index), is_fixed=True)
    target = str(ms.get_context("device_target"))
    return InUse(_name(target, ms.get_context("device_id")), is_fixed=ms.hal.is_initialized(target))


def _name(target: str, index: int) -> DeviceName:
    return CPU if target == "CPU" else DeviceName(target, index)


def use_device(
    asked: DeviceName | None = None,
    where: str | None = None,
    *,
    in_use: Callable[[], InUse] = device_in_use,
    set_device: Callable[[str, int], None] = ms.set_device,
    notice: Callable[[], str | None] = npus_left_alone,
) -> DeviceName:
    """Set the device that is asked for; without one keep what MindSpore is set to. Gives the device in use.

    Raises ModelError, at `where` or else where the device was asked for: the process computes on another one
    already; there is no such device.
    """
    now = in_use()
    if asked is None:
        text = notice() if now.name == CPU and not now.is_fixed else None
        if text:
            logger.warning("%s: mindspore.set_device, or device='Ascend:0', chooses one", text)
        return now.name
    where = where or asked.where
    if asked != now.name and now.is_fixed:
        remedy = "a process has one device: leave this one out, or start another process"
        raise ModelError(f"cannot be {asked}: MindSpore is set to {now.name}", where=where, remedy=remedy)
    if not now.is_fixed:
        _set(asked, where, set_device)
    return asked


def compute_deterministically() -> None:
    """Have every sum, of kernels and of HCCL, made in one order; before `init()`, where HCCL reads it.

    Sets HCCL_DETERMINISTIC and TE_PARALLEL_COMPILER in this process; MindSpore takes it once.
    """
    if not DeviceManagerConf.get_instance().is_deterministic_configured():
        ms.set_deterministic(True)


def _set(device: DeviceName, where: str, set_device: Callable[[str, int], None]) -> None:
    try:
        set_device(device.target, device.index)
    except RuntimeError as error:
        raise ModelError(f"cannot be {device}: {_reason(str(error))}", where=where, remedy=_REMEDY) from None
    if device.target == "Ascend" and 0 < (count := _npus()) <= device.index:
        raise ModelError(f"cannot be {device}: this process sees {count} NPUs, from 0 on", where=where)


_REMEDY = "run npu-smi info, and source CANN's set_env.sh"


def _reason(text: str) -> str:
    """One line of MindSpore's page: the library that it could not load, if it is that."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    missing = [line for line in lines if line.startswith("Load dynamic library")]
    first = (missing or lines or ["MindSpore does not say why"])[0]
    return f"MindSpore finds no Ascend here: {first.rstrip('.')}" if missing else first


def _npus() -> int:
    """How many NPUs MindSpore sees; 0 where it cannot say."""
    try:
        return int(ms.device_context.ascend.device_count())
    except (RuntimeError, NameError):  # no Ascend; a MindSpore that was built without one
        return 0
