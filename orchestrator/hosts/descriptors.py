"""The file descriptors of a control node: as many as its hosts need, or a line before one is touched."""

from __future__ import annotations

import os
import resource

from orchestrator.core.errors import OrchestrateError

__all__ = ["DescriptorLimit", "require_descriptors"]

# For logs, records, files that are pushed, and what libraries open for a moment.
_RESERVE = 64


class DescriptorLimit:
    """How many descriptors this process may have open (RLIMIT_NOFILE, getrlimit(2)), and how many it has."""

    def get(self) -> tuple[int, int]:
        """The soft and the hard limit; resource.RLIM_INFINITY where there is none."""
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    def set(self, soft: int, hard: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def open(self) -> int:
        """How many are open now; 0 where the system does not say."""
        try:
            return len(os.listdir("/proc/self/fd"))
        except OSError:
            return 0


def require_descriptors(
    more: int, what: str, limit: DescriptorLimit | None = None, reserve: int = _RESERVE
) -> None:
    """See to it that `more` descriptors can be opened for `what`: the soft limit is raised as far as needed.

    It is left alone where it suffices, as what is started here inherits it. Raises OrchestrateError where the
    hard limit does not allow for it.
    """
    limit = limit or DescriptorLimit()
    needed = limit.open() + more + reserve
    soft, hard = limit.get()
    if _allows(soft, needed):
        return
    allowed = hard
    if _allows(hard, needed):
        try:
            limit.set(needed, hard)
            return
        except (OSError, ValueError):
            allowed = soft  # a system with a bound of its own, below the hard limit
    raise OrchestrateError(
        f"{what} need {needed} open files here, and only {allowed} are allowed",
        where="control node",
        remedy=f"raise the hard limit to {needed} (`nofile` in /etc/security/limits.conf, LimitNOFILE of a "
        "service), or name fewer hosts",
    )


def _allows(bound: int, needed: int) -> bool:
    return bound == resource.RLIM_INFINITY or bound >= needed
