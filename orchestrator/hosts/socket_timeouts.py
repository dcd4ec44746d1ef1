"""Timeouts of sockets that the kernel keeps: socket(7), SO_RCVTIMEO and SO_SNDTIMEO."""

from __future__ import annotations

import struct

__all__ = ["timeval"]


def timeval(seconds: float | None) -> bytes:
    """A C struct timeval, as these options are set; zero, and None, is no limit."""
    whole, part = divmod(seconds or 0.0, 1.0)
    return struct.pack("@ll", int(whole), int(part * 1e6))
