"""What the checks found: one result per host and finding, and how they fold into what people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.config.host_ranges import fold
from orchestrator.core.errors import HostsFailed, OrchestrateError, PreflightError

__all__ = ["Level", "Report", "Result", "Row", "agree", "device_list"]


class Level(StrEnum):
    """How a check went; SKIP says that it does not apply or could not be made, and why."""

    OK = "ok"
    SKIP = "skipped"
    WARN = "warning"
    FAIL = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """What one check says about one host, or about some of its devices."""

    host: str
    level: Level
    what: str = ""
    remedy: str = ""
    devices: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """What, with the devices that it is about."""
        if not self.devices:
            return self.what
        return f"device {device_list(self.devices)}: {self.what}"


@dataclass(frozen=True, slots=True)
class Row:
    """The same result on several hosts."""

    check: str
    hosts: tuple[str, ...]
    level: Level
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Report:
    """Every check with its results; `errors` are the hosts that did not answer."""

    results: Sequence[tuple[str, Sequence[Result]]]
    errors: dict[str, OrchestrateError]

    def rows(self) -> Iterator[Row]:
        """One row for each check and different result, in the order of the checks; the good ones first.

        Of a host on which something is wrong, what is not wrong is left out.
        """
        for check, results in self.results:
            folded: dict[tuple[Level, str, str], dict[str, None]] = {}
            bad = {result.host for result in results if result.level in (Level.WARN, Level.FAIL)}
            for result in sorted(results, key=lambda result: list(Level).index(result.level)):
                if result.host in bad and result.level in (Level.OK, Level.SKIP):
                    continue
                hosts = folded.setdefault((result.level, result.text, result.remedy), {})
                hosts[result.host] = None
            for (level, text, remedy), hosts in folded.items():
                yield Row(check, tuple(hosts), level, text, remedy)

    def count(self, level: Level) -> int:
        """How many rows there are of this level."""
        return sum(row.level is level for row in self.rows())

    @property
    def exit_code(self) -> int:
        """0, or that of the gravest finding: 3 where a host cannot be reached, 4 where one is not fit."""
        unfit = PreflightError.exit_code if self._unfit() else 0
        return max([unfit, *(error.exit_code for error in self.errors.values())])

    def warnings(self) -> list[str]:
        """One line each, hosts as ranges."""
        return [f"{fold(row.hosts)}: {row.text}" for row in self.rows() if row.level is Level.WARN]

    def raise_on_failure(self) -> None:
        """Raise with every failure of every host; return when all hosts are fit."""
        errors = {**self.errors, **self._unfit()}
        if errors:
            raise HostsFailed.of(errors)

    def _unfit(self) -> dict[str, OrchestrateError]:
        failed: dict[str, list[Result]] = {}
        for _, results in self.results:
            for result in results:
                if result.level is Level.FAIL and result.host not in self.errors:
                    failed.setdefault(result.host, []).append(result)
        return {
            host: PreflightError(
                _joined([each.text for each in found]),
                where=host,
                remedy=_joined([each.remedy for each in found]),
            )
            for host, found in failed.items()
        }


def _joined(texts: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))


def device_list(devices: Sequence[int]) -> str:
    """`0-3, 7`"""
    runs: list[list[int]] = []
    for device in sorted(set(devices)):
        if runs and device == runs[-1][-1] + 1:
            runs[-1].append(device)
        else:
            runs.append([device])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def agree(
    what: str, versions: Mapping[str, str | None], remedy: str, unknown: Result | None = None
) -> Iterator[Result]:
    """Whether something is the same on all hosts.

    The odd ones out differ from what most hosts have; the first host wins a tie.
    """
    known = {host: version for host, version in versions.items() if version is not None}
    usual = Counter(known.values()).most_common(1)[0][0] if known else ""
    having = fold(host for host, version in known.items() if version == usual)
    for host, version in versions.items():
        if version is None:
            level, text, cure = (
                (unknown.level, unknown.what, unknown.remedy) if unknown else (Level.SKIP, "not known", "")
            )
            yield Result(host, level, text, cure)
        elif version != usual:
            yield Result(host, Level.FAIL, f"{what} {version}, but {usual} on {having}", remedy)
        else:
            yield Result(host, Level.OK, f"{what} {version}")
