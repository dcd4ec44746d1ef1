"""The kinds of Ascend chip that differ in what a rank table may hold and in how devices are wired."""

from __future__ import annotations

import re
from typing import Any, Literal

from orchestrator.yaml_words import Invalid, show

__all__ = ["RING", "Chip", "chip_named", "chip_written"]

# 910A: two rings of four devices. 910B: Atlas A2. 910_93: Atlas A3, in super pods.
Chip = Literal["910A", "910B", "910_93"]

# Devices that share an HCCS ring on a 910A: 0-3 and 4-7.
RING = 4

# As `npu-smi` names them: 910A, 910ProA, 910PremiumA, 910B1 to 910B4-1, Ascend910_9391, 910C, Ascend910.
_NAMES: tuple[tuple[str, Chip], ...] = (
    (r"910(Pro|Premium)?A", "910A"),
    (r"910B[1-4]?(-\d)?|A2", "910B"),
    (r"910_?93\d*|910C|A3", "910_93"),
)


def chip_named(name: str) -> Chip | None:
    """The kind of a chip as a tool names it; None where the name tells nothing."""
    bare = re.sub(r"^ascend\s*", "", name.strip(), flags=re.IGNORECASE)
    return next((kind for pattern, kind in _NAMES if re.fullmatch(pattern, bare, re.IGNORECASE)), None)


def chip_written(value: Any) -> Any:
    """The kind of a chip as a person writes it. Raises Invalid."""
    # To YAML, 910_93 is the number 91093.
    kind = chip_named(str(value)) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
    if kind is None:
        raise Invalid(f"expected 910A, 910B or A3; got {show(value)}", "see `npu-smi info -m`")
    return kind
