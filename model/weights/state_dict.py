"""The check of a state dict against a network: every name that does not fit is told, blocks folded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.errors import ModelError
from orchestrator.core.number_ranges import fold_numbers

__all__ = ["check_names"]

# The number of a block.
_BLOCK = re.compile(r"(?<=\.)\d+(?=\.)")


def check_names(
    shapes: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, tuple[int, ...]],
    path: Path,
    remedy: str = "see model.preset",
) -> None:
    """Raise ModelError listing every missing, extra and mis-shaped name."""
    missing = [name for name in shapes if name not in stored]
    extra = [name for name in stored if name not in shapes]
    wrong = [
        f"{name} {list(stored[name])} for {list(shape)}"
        for name, shape in shapes.items()
        if name in stored and tuple(stored[name]) != shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(_folded(names))}"
        for kind, names in (("missing", missing), ("extra", extra), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise ModelError(f"does not fit the network; {'; '.join(problems)}", where=str(path), remedy=remedy)


def _folded(names: Sequence[str]) -> list[str]:
    """Names that differ in the number of the block alone, as one: `blocks.[0-29].ln_1`; order is kept."""
    blocks: dict[str, list[int]] = {}
    for name in names:
        match = _BLOCK.search(name)
        family = blocks.setdefault(name[: match.start()] + "{}" + name[match.end() :] if match else name, [])
        if match:
            family.append(int(match[0]))
    return [pattern.replace("{}", _block_numbers(numbers), 1) for pattern, numbers in blocks.items()]


def _block_numbers(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"[{fold_numbers(numbers)}]"
