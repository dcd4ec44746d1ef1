"""What the checks found, for people and as data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.cli.terminal import Console
from orchestrator.config.host_ranges import fold
from orchestrator.preflight.report import Level, Report, Row

__all__ = ["print_report", "report_data"]

_SIGNS = {
    Level.OK: ("ok", "green"),
    Level.SKIP: ("skip", "dim"),
    Level.WARN: ("WARN", "yellow"),
    Level.FAIL: ("FAIL", "bold red"),
}

_MANY_HOSTS = 16
_MOST_WRONG = 6


def print_report(report: Report) -> None:
    """A table with hosts as ranges, then what was skipped, then the sum.

    Of more hosts than a screen has room for, what is wrong comes first, and what is not is in one line.
    """
    console = Console(highlight=False)
    rows = list(_with_keys_folded(list(report.rows())))
    skipped = _skipped(rows)
    told = [row for row in rows if row.check not in skipped]
    if len({host for row in rows for host in row.hosts}) <= _MANY_HOSTS:
        console.print(_table(told))
    else:
        _print_many(console, told)
    for reason in dict.fromkeys(skipped.values()):
        names = ", ".join(check for check, why in skipped.items() if why == reason)
        console.print(Text(f"\nskipped, {reason}: {names}"))
    console.print(Text(f"\n{_sum(report, rows)}"))


# As hosts/ssh/host_keys.py tells of a key that is in no known_hosts.
_UNKNOWN_KEY = re.compile(r"the host key of (.+) \(\S+ (\S+)\) is unknown")
_KEYSCAN = re.compile(r"ssh-keyscan -p (\d+) (\S+) >> (.+), or pass --accept-new-host-keys")
# So many addresses make a command that a person can still look over.
_MOST_ADDRESSES = 16


def _with_keys_folded(rows: list[Row]) -> Iterator[Row]:
    """The hosts whose keys are unknown as one row with one command for each port; the others as they are."""
    unknown: dict[tuple[str, str], list[tuple[Row, str]]] = {}
    for row in rows:
        scan = _KEYSCAN.fullmatch(row.remedy)
        if scan and _UNKNOWN_KEY.fullmatch(row.text):
            unknown.setdefault((scan[1], scan[3]), []).append((row, scan[2]))
    folded = {id(row) for found in unknown.values() if len(found) > 1 for row, _ in found}
    for row in rows:
        if id(row) not in folded:
            yield row
            continue
        for (port, file), found in list(unknown.items()):
            if found[0][0] is row:
                hosts = tuple(host for each, _ in found for host in each.hosts)
                yield Row(
                    row.check, hosts, row.level, "the host keys are unknown", _how_to_add(port, file, found)
                )


def _how_to_add(port: str, file: str, found: list[tuple[Row, str]]) -> str:
    """One command for all; `--json` has the fingerprints to compare."""
    compare = "compare the fingerprints in `check --json`, then pass --accept-new-host-keys once"
    if len(found) > _MOST_ADDRESSES:
        return compare
    return f"{compare}; or: ssh-keyscan -p {port} {' '.join(address for _, address in found)} >> {file}"


def _print_many(console: Console, rows: list[Row]) -> None:
    wrong = [row for level in (Level.FAIL, Level.WARN) for row in rows if row.level is level]
    if wrong:
        console.print(_table(wrong[:_MOST_WRONG]))
    if len(wrong) > _MOST_WRONG:
        console.print(Text(f"and {len(wrong) - _MOST_WRONG} more findings: `--json` has them all"))
    checks = dict.fromkeys(row.check for row in rows)
    well = [check for check in checks if check not in {row.check for row in wrong}]
    if well:
        console.print(Text(f"ok: {', '.join(well)}"))


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


def report_data(report: Report) -> dict[str, Any]:
    """The report as plain data, one entry per check, host and finding."""
    return {
        "exit_code": report.exit_code,
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
