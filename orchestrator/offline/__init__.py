"""Work on checkpoints of this machine, without a run and without hosts."""

from orchestrator.offline.convert import Conversion, plan_combine, plan_split, plan_transform, write
from orchestrator.offline.diff import Difference, diff
from orchestrator.offline.inspect import Listing, inspect
from orchestrator.offline.verify import Finding, verify

__all__ = [
    "Conversion",
    "Difference",
    "Finding",
    "Listing",
    "diff",
    "inspect",
    "plan_combine",
    "plan_split",
    "plan_transform",
    "verify",
    "write",
]
