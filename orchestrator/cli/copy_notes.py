"""What is said of copies of checkpoints: whether the network keeps up, how far they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.config.host_ranges import fold
from orchestrator.control.run_record import RunRecord
from orchestrator.core.visible_text import visible

if TYPE_CHECKING:  # who looks at a run reckons no sizes, and has no job
    from orchestrator.sizing.copy_rate import CopyNeed

__all__ = ["copies_line", "copies_note"]

_LATE = 2  # saves: one is copied while the next is made


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


def copies_note(record: RunRecord) -> str:
    """`copies: step 400 is on a second host; h3 is 4 saves behind`; empty where none are made."""
    found = {
        name: view.status.copies
        for name, view in record.hosts.items()
        if view.status is not None and view.status.copies is not None
    }
    if not found or record.state.is_terminal:
        return ""
    steps = [each.step for each in found.values() if each.step is not None]
    done = f"step {min(steps)} is on a second host" if len(steps) == len(found) else "none of all hosts yet"
    late = {name: each for name, each in found.items() if each.lag >= _LATE}
    parts = [f"copies: {done}"]
    if late:
        most = max(each.lag for each in late.values())
        parts.append(f"{fold(late)} up to {most} saves behind")
    failed = {name: each.error for name, each in found.items() if each.error}
    if failed:
        name, error = next(iter(failed.items()))
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        parts.append(f"{name}{more}: {visible(error)}")
    return "; ".join(parts)
