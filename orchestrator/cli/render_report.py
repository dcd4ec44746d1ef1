"""What the checks found, for people and as data."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.cli.terminal import Console
from orchestrator.config.host_ranges import fold
from orchestrator.core.errors import words_by_host
from orchestrator.preflight.report import Level, Report, Row

__all__ = ["print_report", "report_data"]

_SIGNS = {
    Level.OK: ("ok", "green"),
    Level.SKIP: ("skip", "dim"),
    Level.WARN: ("WARN", "yellow"),
    Level.FAIL: ("FAIL", "bold red"),
}

# Findings that are shown with all their words, on a screen of 24 lines.
_MOST_WRONG = 6


def print_report(report: Report, *, every: bool = False) -> None:
    """What is well in a few lines, what was skipped, then what is wrong, the worst last, and the sum.

    Hosts are ranges. With `every` all checks have rows, as they were made.
    """
    console = Console(highlight=False)
    rows = list(_with_words_of_many(report).rows())
    skipped = _skipped(rows)
    told = [row for row in rows if row.check not in skipped]
    if every:
        console.print(_table(told))
    else:
        console.print(_well(told))
    for reason in dict.fromkeys(skipped.values()):
        names = ", ".join(check for check, why in skipped.items() if why == reason)
        console.print(Text(f"skipped, {reason}: {names}"))
    if not every:
        _print_wrong(console, told)
    console.print(Text(f"\n{_sum(report, rows)}"))


def _with_words_of_many(report: Report) -> Report:
    """The same report, with the same words for hosts that are not reached for the same reason."""
    words = words_by_host(report.errors)
    unreached = [
        dataclasses.replace(result, what=words[result.host][0], remedy=words[result.host][1])
        if result.host in words and result.what == report.errors[result.host].what
        else result
        for _, results in report.results[:1]
        for result in results
    ]
    head = [(check, unreached) for check, _ in report.results[:1]]
    return Report([*head, *report.results[1:]], report.errors)


def _well(rows: list[Row]) -> Text:
    """The checks that found nothing wrong: the bare names, then those with something to say, as text."""
    wrong = {row.check for row in rows if row.level in (Level.WARN, Level.FAIL)}
    names: list[str] = []
    said: list[str] = []
    for row in rows:
        if row.level is not Level.OK or row.check in wrong:
            continue
        alike = sum(other.check == row.check for other in rows) == 1
        if not row.text or not alike:
            names += [row.check] if row.check not in names else []
        else:
            said.append(f"{row.check}: {row.text}" if row.check not in row.text else row.text)
    text = Text()
    for label, items, between in (("ok: ", names, ", "), ("", said, "; ")):
        if items:
            text.append("\n" if text else "")
            text.append(label + between.join(items))
    return text


def _print_wrong(console: Console, rows: list[Row]) -> None:
    """Warnings and then failures, at the end, where a terminal shows them; of many the failures."""
    wrong = [row for level in (Level.WARN, Level.FAIL) for row in rows if row.level is level]
    if not wrong:
        return
    shown = wrong[-_MOST_WRONG:]
    failures = [row for row in wrong if row.level is Level.FAIL]
    if len(failures) > _MOST_WRONG:
        shown = failures[:_MOST_WRONG]
    console.print()
    if len(wrong) > len(shown):
        console.print(Text(f"{len(wrong) - len(shown)} more findings: `--all` shows them"))
    console.print(_table(shown))


def _skipped(rows: list[Row]) -> dict[str, str]:
    """The checks that were skipped on all hosts, with the reason."""
    found: dict[str, set[tuple[Level, str]]] = {}
    for row in rows:
        found.setdefault(row.check, set()).add((row.level, row.text))
    return {
        check: next(iter(seen))[1]
        for check, seen in found.items()
        if len(seen) == 1 and next(iter(seen))[0] is Level.SKIP
    }


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("CHECK", "HOSTS", "", "RESULT"):
        table.add_column(column, overflow="fold", no_wrap=column in ("CHECK", ""))
    last = ""
    for row in rows:
        sign, style = _SIGNS[row.level]
        check = row.check if row.check != last else ""
        last = row.check
        table.add_row(check, fold(row.hosts), Text(sign, style=style), Text(row.text))
        if row.remedy:
            table.add_row("", "", "", Text(f"-> {row.remedy}"))
    return table


def _sum(report: Report, rows: list[Row]) -> str:
    hosts = {host for row in rows for host in row.hosts}
    bad = {level: fold({host for row in rows if row.level is level for host in row.hosts}) for level in Level}
    parts = [
        f"{report.count(level)} {_SIGNS[level][0]} on {bad[level]}"
        for level in (Level.FAIL, Level.WARN)
        if bad[level]
    ]
    return f"{len(hosts)} hosts: {'; '.join(parts) or 'all checks passed'}"


def _summary(report: Report) -> dict[str, Any]:
    rows = list(_with_words_of_many(report).rows())
    hosts = {host for row in rows for host in row.hosts}
    skipped = _skipped(rows)

    def found(level: Level) -> list[dict[str, str]]:
        return [
            {"check": row.check, "hosts": fold(row.hosts), "what": row.text, "remedy": row.remedy}
            for row in rows
            if row.level is level
        ]

    failures, warnings = found(Level.FAIL), found(Level.WARN)
    wrong = {row["check"] for row in (*failures, *warnings)} | skipped.keys()
    return {
        "hosts": len(hosts),
        "ok": [check for check in dict.fromkeys(row.check for row in rows) if check not in wrong],
        "skipped": skipped,
        "warnings": warnings,
        "failures": failures,
    }


def report_data(report: Report) -> dict[str, Any]:
    """The report as plain data: a summary with hosts as ranges, then an entry per check, host and finding."""
    return {
        "exit_code": report.exit_code,
        "summary": _summary(report),
        "checks": [
            {
                "check": check,
                "results": [
                    {
                        "host": result.host,
                        "level": str(result.level),
                        "devices": list(result.devices),
                        "what": result.what,
                        "remedy": result.remedy,
                    }
                    for result in results
                ],
            }
            for check, results in report.results
        ],
    }
