"""Findings: what is wrong with a rank table, one for each violation of one rule.

A rule is one thing that HCCL or MindSpore asks of a rank table.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.config.yaml_messages import plain
from orchestrator.core.errors import Problem
from orchestrator.rank_table.table import TableView

__all__ = [
    "Broken",
    "Finding",
    "Rule",
    "Severity",
    "errors_of",
    "problems_of",
    "warnings_of",
]


class Severity(enum.StrEnum):
    """`error`: HCCL or MindSpore would refuse the table or hang; `warning`: it may work, and be wrong."""

    ERROR = "error"
    WARNING = "warning"


# A mistake made by a program is made on every device: after so many of a kind in one file, they are counted.
_MOST_OF_A_KIND = {Severity.ERROR: 20, Severity.WARNING: 3}


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation: the rule's code, the JSON path, what is wrong with which values, what to do."""

    code: str
    severity: Severity
    path: str
    what: str
    remedy: str = ""
    values: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def warnings_of(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is Severity.WARNING]


def problems_of(name: str, findings: Iterable[Finding]) -> Iterator[Problem]:
    """Findings as lines for people, `name` being the file's.

    What to do is told once for each kind, and many of one kind are cut short: warnings soon, errors later.
    """
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.code, []).append(finding)
    for code, found in kinds.items():
        most = _MOST_OF_A_KIND[found[0].severity]
        remedy = ""
        for finding in found[:most]:
            where = f"{name}: {finding.path}" if finding.path else name
            again = finding.remedy == remedy
            remedy = finding.remedy
            yield Problem(plain(where), plain(f"{finding.what} [{code}]"), "" if again else plain(remedy))
        if len(found) > most:
            what = f"{len(found) - most} more of these [{code}]"
            yield Problem(plain(name), what, "`orchestrate rank-table validate --json` lists all")


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
    """`check` yields every place where the rule is broken, in one pass over the table.

    `source` is where the rule is from: a function of HCOMM's reader of rank tables, or a document.
    """

    code: str
    severity: Severity
    check: Callable[[TableView], Iterator[Broken]]
    remedy: str
    source: str

    def findings(self, view: TableView) -> Iterator[Finding]:
        for broken in self.check(view):
            severity = self.severity if broken.severity is None else broken.severity
            remedy = self.remedy if broken.remedy is None else broken.remedy
            yield Finding(self.code, severity, broken.path, broken.what, remedy, broken.values)
