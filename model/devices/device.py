"""The device that networks are built for, and what it can compute: number types, kernels, what stands in.

Which variant of a cell is right depends on the device. All of them ask here, so that a test on a CPU can
build, compile and inspect what an Ascend would run (`built_for`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import mindspore as ms

from orchestrator.families.network_config import NetworkConfig

__all__ = [
    "CPU",
    "Device",
    "built_for",
    "current_device",
    "dtype_of",
    "has_flash_attention",
    "warn_once",
    "why_no_flash",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Device:
    """MindSpore's device target, and of Ascend the chip: `ascend910` (910A), `ascend910b`, `ascend910_93`."""

    target: str
    chip: str | None = None

    @property
    def is_cpu(self) -> bool:
        return self.target == "CPU"

    @property
    def is_ascend(self) -> bool:
        return self.target == "Ascend"


CPU = Device("CPU")
# Atlas A2 and A3: for these two CANN has the kernel (aclnnFlashAttentionScore's table of products; in
# ops-transformer, flash_attention_score_tiling_general.cpp registers ASCEND910B and ASCEND910_93).
FLASH_CHIPS = ("ascend910b", "ascend910_93")
_built_for: ContextVar[Device | None] = ContextVar("built_for", default=None)


@contextmanager
def built_for(device: Device) -> Iterator[None]:
    """Cells made within are those for this device, whatever runs them."""
    token = _built_for.set(device)
    try:
        yield
    finally:
        _built_for.reset(token)


def current_device() -> Device:
    """The device that MindSpore is set to, unless `built_for` says another."""
    chosen = _built_for.get()
    if chosen is not None:
        return chosen
    target = str(ms.get_context("device_target"))
    return Device(target, _chip()) if target == "Ascend" else Device(target)


@cache
def _chip() -> str:
    from mindspore._c_expression import MSContext  # only there is it known

    return str(MSContext.get_instance().get_ascend_soc_version()).lower()


def dtype_of(name: str) -> Any:
    """MindSpore's type for a config's type name.

    MindSpore's CPU back end has next to no bfloat16 kernels (not even Reshape); float32, which holds
    every bfloat16 exactly, stands in for it there.
    """
    if name == "bfloat16" and current_device().is_cpu:
        warn_once("bfloat16: the CPU has no kernels for it; float32 is used instead")
        return ms.float32
    return getattr(ms, name)


def why_no_flash(config: NetworkConfig, device: Device) -> str | None:
    """The reason why Ascend's attention kernel cannot serve this network; None where it can.

    Its limits are those in MindSpore's documentation of `ops.flash_attention_score`; a chip that is not known
    to have it is taken for one without.
    """
    if not device.is_ascend:
        return f"{device.target} has no such kernel"
    if device.chip not in FLASH_CHIPS:
        return f"CANN has the kernel for {' and '.join(FLASH_CHIPS)}, and this is {device.chip}"
    if config.compute_dtype == "float32":
        return "the kernel computes in float16 or bfloat16, and compute_dtype is float32"
    if config.head_size % 16 or config.head_size > 512:
        return f"the kernel needs a head size that is a multiple of 16 up to 512, not {config.head_size}"
    if config.attention_dropout_rate and config.seq_length % 8:
        return f"with dropout the kernel needs a seq_length that is a multiple of 8, not {config.seq_length}"
    return None


def has_flash_attention(config: NetworkConfig) -> bool:
    """Whether the kernel is asked for and there is one; asked for in vain, it costs one warning a process."""
    reason = why_no_flash(config, current_device())
    if config.use_flash_attention and reason:
        warn_once(f"use_flash_attention: {reason}; attention is computed step by step")
    return config.use_flash_attention and reason is None


@cache
def warn_once(text: str) -> None:
    """Log a warning, the first time that it is given."""
    logger.warning(text)
