"""Numbers with units, for people."""

from __future__ import annotations

import math
import re
from typing import Any

import click

__all__ = ["RATE", "ByteSize", "Duration", "Number", "byte_size"]

_UNITS = ("kB", "MB", "GB", "TB")
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)[bB]?", re.ASCII)


def byte_size(nbytes: int) -> str:
    """`512 B`, `33.6 MB`, `1.07 GB`: three digits, powers of 1000 as disks are sold."""
    if nbytes < 1000:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            break
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


class ByteSize(click.ParamType[int]):
    """`5GB`, `500M`, `4GiB` or a number of bytes, as an option's value."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _WRITTEN.fullmatch(str(value))
        size = 0
        if match is not None:
            base = 1024 if match[3] else 1000
            size = int(float(match[1]) * base ** " kMGT".index(match[2].replace("K", "k") or " "))
        if not size:
            self.fail(f"{value!r} is no size; write 5GB, 500MB or a number of bytes", param, ctx)
        return size


class Number(click.FloatRange):
    """A number between bounds. `nan` lies between any, to click, and is none here."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


class Duration(click.ParamType[float]):
    """Seconds, written as `90s`, `10m`, `3h` or `1h30m`; they lie between `least` and `most`."""

    name = "duration"

    def __init__(self, *, least: float = 0.001, most: float = 366 * 86400.0) -> None:
        self._least, self._most = least, most

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        # Not at start-up: it brings YAML in, which few commands need.
        from orchestrator.config.job_fields import duration
        from orchestrator.config.yaml_messages import Invalid

        try:
            seconds = float(duration(str(value)))
        except Invalid as error:
            self.fail(str(error), param, ctx)
        if not self._least <= seconds <= self._most:
            self.fail(f"{value} is not between {self._least:g} s and {self._most:g} s", param, ctx)
        return seconds


class _Rate(click.ParamType[int]):
    """Bytes a second: `500k`, `80M`, `1.5G`."""

    name = "rate"
    _pattern = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)(?:[bB](?:/s)?)?", re.ASCII)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = self._pattern.fullmatch(str(value).strip())
        rate = float(match[1]) * 1000 ** " kmg".index(match[2].lower() or " ") if match else 0
        if rate < 1:
            self.fail(f"{value!r} is no rate; write bytes a second as 500k, 80M or 1.5G", param, ctx)
        return int(rate)


RATE = _Rate()
