"""Host ranges: `npu[001-012]`, `192.168.0.[0-11]`, `a[1,3-5]b[01-02]`, and comma lists of these."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

__all__ = [
    "MAX_HOSTS",
    "MAX_NAMES",
    "RangeError",
    "expand",
    "fold",
    "natural_key",
    "numbers",
    "numeric_key",
    "size",
    "split_list",
]

MAX_NAMES = 65_536
# In one inventory: twice as many servers as a rank table of 32,768 devices has.
MAX_HOSTS = 8_192
_LONGEST_SHOWN = 60
_MOST_BRACKETS = 64

_ITEM = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", re.ASCII)
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_DIGITS = re.compile(r"([0-9]+)")


class RangeError(ValueError):
    """A range that cannot be read."""


def split_list(text: str) -> list[str]:
    """Split at the commas outside brackets; blanks around an item are dropped. Raises RangeError."""
    items, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in (0, 1):
            raise RangeError(f"brackets do not match in {_short(text)!r}")
        if char == "," and depth == 0:
            items.append(text[start:index].strip())
            start = index + 1
    if depth:
        raise RangeError(f"brackets do not match in {_short(text)!r}")
    items.append(text[start:].strip())
    if "" in items:
        raise RangeError("is empty" if len(items) == 1 else f"an item is empty in {_short(text)!r}")
    return items


def numbers(text: str) -> list[str]:
    """`001-003,7` as its numbers, zero padding kept. Raises RangeError."""
    found: list[str] = []
    for first, last, width in _spans(text):
        found.extend(str(number).zfill(width) for number in range(first, last + 1))
    return found


def _spans(text: str) -> Iterator[tuple[int, int, int]]:
    """First, last and width of every item."""
    count = 0
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if not match:
            raise RangeError(f"expected numbers such as [1-3,7], got [{_short(text)}]")
        first, last = match[1], match[2] or match[1]
        padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
        if padded and len(first) != len(last):
            raise RangeError(f"{item.strip()}: both ends need the same number of digits")
        if int(last) < int(first):
            raise RangeError(f"{item.strip()}: runs downwards")
        count += int(last) - int(first) + 1
        if count > MAX_NAMES:
            raise RangeError(f"[{_short(text)}] makes more than {MAX_NAMES} names")
        yield int(first), int(last), len(first) if padded else 0


def size(text: str) -> int:
    """How many names `expand` would give; none of them is made. Raises RangeError."""
    count = 0
    for item in split_list(text):
        ways = 1
        for part in _parts(item)[1::2]:
            ways *= sum(last - first + 1 for first, last, _ in _spans(part))
            if ways > MAX_NAMES:
                raise RangeError(f"{_short(item)!r} makes more than {MAX_NAMES} names")
        count += ways
    return count


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def expand(text: str) -> tuple[str, ...]:
    """All names of a range or comma list, leftmost bracket slowest. Raises RangeError."""
    names: list[str] = []
    for item in split_list(text):
        parts = _parts(item)
        choices = [[part] if index % 2 == 0 else numbers(part) for index, part in enumerate(parts)]
        if len(names) + math.prod(map(len, choices)) > MAX_NAMES:
            raise RangeError(f"{_short(text)!r} makes more than {MAX_NAMES} names")
        names.extend("".join(combination) for combination in itertools.product(*choices))
    return tuple(names)


def _parts(item: str) -> list[str]:
    """What is between brackets, at odd places, and around them."""
    parts = _BRACKET.split(item)
    if len(parts) > 2 * _MOST_BRACKETS:
        raise RangeError(f"{_short(item)!r} has more than {_MOST_BRACKETS} brackets")
    return parts


def natural_key(name: str) -> tuple[tuple[str, int, int], ...]:
    """Sorts npu2 before npu10."""
    parts = _DIGITS.split(name)
    return tuple(
        (parts[i], *(_number(parts[i + 1]) if i + 1 < len(parts) else (-1, 0)))
        for i in range(0, len(parts), 2)
    )


def numeric_key(address: str) -> tuple[int, int, tuple[tuple[str, int, int], ...]]:
    """Sorts 10.0.0.2 before 10.0.0.10, IPv4 before IPv6, and all of these before names."""
    try:
        ip = ip_address(address)
        return (ip.version, int(ip), ())
    except ValueError:
        return (100, 0, natural_key(address))


def _number(digits: str) -> tuple[int, int]:
    # A number that `numbers` would refuse to read back stays text: it sorts by length, then digit by digit.
    return (int(digits[:18]) if len(digits) <= 18 else 10**18, len(digits))


def fold(names: Iterable[str]) -> str:
    """The shortest range text for these names, sorted: `npu[001-003,005]`; inverse of `expand`."""
    rows = {tuple(_DIGITS.split(name)) for name in names}
    width = max((len(row) for row in rows), default=0)
    for column in range(width - 2, 0, -2):
        groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
        kept = set()
        for row in rows:
            if column < len(row) and len(row[column]) <= 18:
                groups[row[:column], row[column + 1 :]].append(row[column])
            else:
                kept.add(row)
        rows = kept | {(*head, _fold_numbers(found), *tail) for (head, tail), found in groups.items()}
    folded = ["".join(row) for row in rows]
    return ",".join(sorted(folded, key=lambda text: natural_key(re.sub(r"[\[\]]", "", text))))


def _fold_numbers(found: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    runs = [f"{run[0]}-{run[-1]}" if len(run) > 1 else run[0] for run in _runs(found)]
    return f"[{','.join(runs)}]"


def _runs(found: list[str]) -> Iterator[list[str]]:
    """Numbers that follow each other; where one is padded, those of its width belong to its sequence."""
    padded = {len(text) for text in found if text.startswith("0") and len(text) > 1}
    run: list[str] = []
    for text in sorted(found, key=lambda text: (len(text) if len(text) in padded else 0, int(text))):
        same = run and (len(text) == len(run[-1]) or not padded & {len(text), len(run[-1])})
        if run and same and int(text) == int(run[-1]) + 1:
            run.append(text)
            continue
        if run:
            yield run
        run = [text]
    yield run
