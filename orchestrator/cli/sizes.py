"""Numbers of bytes as people read and write them; 1 kB is 1000 bytes, as disks and networks count."""

from __future__ import annotations

import re
from typing import Any

import click

__all__ = ["RATE", "size_text"]

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size_text(nbytes: int) -> str:
    """`640 B`, `12.3 kB`, `1.07 GB`."""
    value, unit = float(nbytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {_UNITS[unit]}"


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
