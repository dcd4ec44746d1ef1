"""The times that lines of logs tell of themselves, as seconds since the epoch by the clock of this host.

MindSpore `2025-03-10-09:40:38.720.000`, CANN `2025-01-24-11:24:07.908.424`, Python's logging `2025-03-10
09:40:38,720`, RFC 3339 with its zone, syslog `Mar 15 03:40:50`, which has no year. What names no zone is of
this host's own.
"""

from __future__ import annotations

import calendar
import re
import time
from typing import Optional

__all__ = ["syslog_time", "time_of"]

_DATED = re.compile(
    r"\b(20\d\d)-(0\d|1[0-2])-([0-2]\d|3[01])[-T ]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)"
    r"(?:[.,](\d{3})\.?(\d{3})?)?(Z|[+-]\d\d:?\d\d)?"
)
_SYSLOG = re.compile(r"([A-Z][a-z]{2}) +(\d{1,2}) ([01]\d|2[0-3]):([0-5]\d):([0-5]\d) ")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LOOKED_AT = 160
_DAY = 86400.0


def time_of(line: str) -> Optional[float]:
    """The first time in a line, near its beginning; None where it has none."""
    found = _DATED.search(line, 0, _LOOKED_AT)
    if found is None:
        return None
    *numbers, milli, micro, zone = found.groups()
    fraction = int(milli or 0) / 1e3 + int(micro or 0) / 1e6
    year, month, day, hour, minute, second = map(int, numbers)
    try:
        if zone is None:
            return time.mktime((year, month, day, hour, minute, second, 0, 0, -1)) + fraction
        return calendar.timegm((year, month, day, hour, minute, second)) - _ahead(zone) + fraction
    except (ValueError, OverflowError):
        return None


def syslog_time(line: str, now: float) -> Optional[float]:
    """The time at the beginning of a line of syslog: of the two forms, and of the newest year that it can
    be of."""
    found = _SYSLOG.match(line)
    if found is None:
        return time_of(line[:40])
    month, *numbers = found.groups()
    day, hour, minute, second = map(int, numbers)
    if month not in _MONTHS:
        return None
    year = time.localtime(now).tm_year
    for candidate in (year, year - 1):
        number = _MONTHS.index(month) + 1
        try:
            moment = time.mktime((candidate, number, day, hour, minute, second, 0, 0, -1))
        except (ValueError, OverflowError):
            return None
        if moment <= now + _DAY:
            return moment
    return None


def _ahead(zone: str) -> int:
    """By how many seconds a zone's clocks are ahead of UTC."""
    if zone == "Z":
        return 0
    seconds = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
    return -seconds if zone[0] == "-" else seconds
