"""The check that something is the same on all hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from orchestrator.config.host_ranges import fold
from orchestrator.preflight.report import Level, Result

__all__ = ["agree"]


def agree(
    what: str, versions: Mapping[str, str | None], remedy: str, unknown: Result | None = None
) -> Iterator[Result]:
    """The odd ones out differ from what most hosts have; the first host wins a tie."""
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
