"""What came of doing one thing on many hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from orchestrator.errors import HostsFailed, OrchestrateError
from orchestrator.inventory import fold

__all__ = ["HostResults", "error_lines"]

T = TypeVar("T")


def error_lines(error: OrchestrateError) -> list[str]:
    """The lines of an error as people read them: hosts with the same message as one range."""
    if isinstance(error, HostsFailed):
        return [f"{fold(hosts)}: {text}" for text, hosts in error.hosts_by_message().items()]
    return error.lines()


class HostResults(Generic[T]):
    """A result or an error for every host that was asked, in the order of the inventory."""

    def __init__(self, values: Mapping[str, T], errors: Mapping[str, OrchestrateError]) -> None:
        self.values = dict(values)
        self.errors = dict(errors)

    def __repr__(self) -> str:
        return f"HostResults(ok={list(self.values)}, failed={list(self.errors)})"

    def raise_on_error(self) -> dict[str, T]:
        """The values, if no host failed; else that host's error, or one HostsFailed for several."""
        if len(self.errors) == 1:
            raise next(iter(self.errors.values()))
        if self.errors:
            raise HostsFailed(self.errors)
        return self.values
