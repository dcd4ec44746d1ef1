"""What is wrong with a rank table: one finding per violation of one rule."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.errors import Problem
from orchestrator.yaml_words import plain

__all__ = ["Finding", "Severity", "errors_of", "problems_of", "warnings_of"]

# A mistake made by a program is made on every device: after so many of a kind in one file, they are counted.
_MOST_OF_A_KIND = 20


class Severity(enum.StrEnum):
    """`error`: HCCL or MindSpore would refuse the table or hang; `warning`: it may work, and be wrong."""

    ERROR = "error"
    WARNING = "warning"


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
    """Findings as lines for people, `name` being the file's; many of one kind are cut short."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.code, []).append(finding)
    for code, found in kinds.items():
        for finding in found[:_MOST_OF_A_KIND]:
            where = f"{name}: {finding.path}" if finding.path else name
            yield Problem(plain(where), plain(f"{finding.what} [{code}]"), plain(finding.remedy))
        more = len(found) - _MOST_OF_A_KIND
        if more > 0:
            yield Problem(plain(name), f"{more} more of these [{code}]", "--json lists them all")
