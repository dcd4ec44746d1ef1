"""What the device at hand can compute: number types and kernels, and what stands in where it cannot."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import mindspore as ms

from model.config import BloomConfig

__all__ = ["dtype_of", "has_flash_attention", "why_no_flash"]

logger = logging.getLogger(__name__)


def dtype_of(name: str) -> Any:
    """MindSpore's type for a config's type name.

    MindSpore's CPU back end has next to no bfloat16 kernels (not even Reshape); float32, which holds
    every bfloat16 exactly, stands in for it there.
    """
    if name == "bfloat16" and ms.get_context("device_target") == "CPU":
        warn_once("bfloat16: the CPU has no kernels for it; float32 is used instead")
        return ms.float32
    return getattr(ms, name)


def why_no_flash(config: BloomConfig, device: str) -> str | None:
    """The reason why Ascend's attention kernel cannot serve this network; None where it can.

    Its limits are those in MindSpore's documentation of `ops.flash_attention_score`.
    """
    if device != "Ascend":
        return f"{device} has no such kernel"
    if config.compute_dtype == "float32":
        return "the kernel computes in float16 or bfloat16, and compute_dtype is float32"
    if config.head_size % 16 or config.head_size > 512:
        return f"the kernel needs a head size that is a multiple of 16 up to 512, not {config.head_size}"
    return None


def has_flash_attention(config: BloomConfig) -> bool:
    """Whether the kernel is asked for and there is one; asked for in vain, it costs one warning a process."""
    reason = why_no_flash(config, ms.get_context("device_target"))
    if config.use_flash_attention and reason:
        warn_once(f"use_flash_attention: {reason}; attention is computed step by step")
    return config.use_flash_attention and reason is None


@cache
def warn_once(text: str) -> None:
    """Log a warning, the first time that it is given."""
    logger.warning(text)
