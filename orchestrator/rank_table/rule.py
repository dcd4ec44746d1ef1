"""What a rule is: one thing that HCCL or MindSpore asks of a rank table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.rank_table.finding import Finding, Severity
from orchestrator.rank_table.view import TableView

__all__ = ["Broken", "Rule"]


@dataclass(frozen=True, slots=True)
class Broken:
    """One place where a rule is broken; `severity` and `remedy` where they differ from the rule's."""

    path: str
    what: str
    values: tuple[str, ...] = ()
    severity: Severity | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """`check` yields every place where the rule is broken, in one pass over the table."""

    code: str
    severity: Severity
    check: Callable[[TableView], Iterator[Broken]]
    remedy: str

    def findings(self, view: TableView) -> Iterator[Finding]:
        for broken in self.check(view):
            severity = self.severity if broken.severity is None else broken.severity
            remedy = self.remedy if broken.remedy is None else broken.remedy
            yield Finding(self.code, severity, broken.path, broken.what, remedy, broken.values)
