"""Host ranges in the spellings of clush, pdsh and Ansible: `npu[001-012]`, `192.168.0.[0-11]`, `a[1,3-5],b`."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["expand", "fold"]

_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_PIECE = re.compile(r"(\d+)(?:-(\d+))?")
_MOST = 100_000


def expand(text: str) -> list[str]:
    """All names of a range, in order; zero padding is kept. Raises ValueError with what is wrong."""
    names = [name for part in _split(text) for name in _expand_one(part)]
    if not names:
        raise ValueError(f"empty range `{text}`")
    return names


def _split(text: str) -> list[str]:
    parts = re.split(r",(?![^\[]*\])", text)
    stripped = [part.strip() for part in parts]
    if not all(stripped):
        raise ValueError(f"empty name in `{text}`")
    return stripped


def _expand_one(text: str) -> list[str]:
    match = _BRACKET.search(text)
    if match is None:
        if re.search(r"[\[\]\s]", text):
            raise ValueError(f"malformed range `{text}`: write it like npu[001-012]")
        return [text]
    head, tail = text[: match.start()], _expand_tail(text[match.end() :])
    names = [f"{head}{number}{rest}" for number in _numbers(match[1], text) for rest in tail]
    if len(names) > _MOST:
        raise ValueError(f"range `{text}` has more than {_MOST} names")
    return names


def _expand_tail(text: str) -> list[str]:
    return _expand_one(text) if text else [""]


def _numbers(inside: str, text: str) -> list[str]:
    numbers: list[str] = []
    for piece in inside.split(","):
        match = _PIECE.fullmatch(piece.strip())
        if match is None:
            raise ValueError(f"malformed range `{text}`: write it like npu[001-012]")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            raise ValueError(f"empty range `{text}`: {first} comes after {last}")
        if int(last) - int(first) > _MOST:
            raise ValueError(f"range `{text}` has more than {_MOST} names")
        # `001-012` is padded, `1-12` and `8-12` are not.
        width = len(first) if first.startswith("0") else 0
        numbers += [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    return numbers


def fold(names: Iterable[str]) -> str:
    """The shortest spelling of these names, numbered ones as ranges: `npu[001-003,007],login`."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    order: dict[str, tuple[str, str, int] | None] = {}
    for name in dict.fromkeys(names):
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
        if match is None:
            order[name] = None
            continue
        digits = len(match[2])
        # `npu010` and `npu100` belong to the padded `npu001`, although the latter begins with no zero.
        is_padded = (digits > 1 and match[2].startswith("0")) or (match[1], match[3], digits) in groups
        key = (match[1], match[3], digits if is_padded else 0)
        groups.setdefault(key, []).append(int(match[2]))
        order[name] = key
    done: set[tuple[str, str, int]] = set()
    parts = []
    for name, group in order.items():
        if group is None:
            parts.append(name)
        elif group not in done:
            done.add(group)
            parts.append(_fold_group(group, sorted(groups[group])))
    return ",".join(parts)


def _fold_group(group: tuple[str, str, int], numbers: list[int]) -> str:
    head, tail, width = group
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    spelled = [f"{a:0{width}d}" if a == b else f"{a:0{width}d}-{b:0{width}d}" for a, b in runs]
    if len(numbers) == 1:
        return f"{head}{spelled[0]}{tail}"
    return f"{head}[{','.join(spelled)}]{tail}"
