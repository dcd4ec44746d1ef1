"""Ranges of numbers as people write them: `0-3,7`."""

from __future__ import annotations

from typing import Iterable, List, Optional

__all__ = ["fold_numbers"]


def fold_numbers(numbers: Iterable[int], separator: str = ",", most: Optional[int] = None) -> str:
    """All the numbers, sorted, neighbours as one range; `most` ranges at the most, then dots."""
    ranges: List[List[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = [f"{first}-{last}" if last > first else f"{first}" for first, last in ranges[:most]]
    return separator.join([*texts, "..."] if len(texts) < len(ranges) else texts)
