"""The line of `orchestrate plan` on copies of checkpoints: whether the network keeps up with the saves."""

from __future__ import annotations

from orchestrator.sizing.copy_rate import CopyNeed

__all__ = ["copies_line"]


def copies_line(need: CopyNeed) -> str:
    """What a copy takes, and what that means for the steps."""
    what = f"copies: a host sends {need.nbytes / 2**30:.2f} GiB of each save to another one"
    if need.seconds is None:
        rate = need.rate_for(1.0)
        told = f", which takes {rate:.3g} Gbit/s where a step takes a second" if rate is not None else ""
        return f"{what}{told}; `copy: {{rate: …}}` of the inventory says what the network carries"
    takes = f"{what}, {need.seconds:.3g} s at {need.rate:g} Gbit/s"
    if need.least_step is None:
        return f"{takes}; there is one, at the end"
    enough = f"where a step takes {need.least_step:.3g} s or more"
    return f"{takes}: they keep up with a save every {need.every} steps {enough}, else saves are passed over"
