"""The corpus of failures as values: `corpus/*.yaml` read into cases, with what is expected of each.

Of a case: `ranks`, a list of groups: `r` (3, or 0-3, each a rank of its own), `host`, `time` by the host's
clock, `exit`, `signal` or `kind`, `state` (failed where one of these is given), `device` and `pid` of the
first (0 and 1000 + rank where left out; the device counts per host), `step`, `phase`, `log`, `plog`, `run`
(lines, or `at` and `text`); `hosts`, with the fields of HostEvidence; `clock`, by how much a host's is
`ahead` and the `error` of that; `addresses`, each a host or [host, device]; `expect`, the kind and the
culprit, or the suspects.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from orchestrator.core.ends import End, EndKind, StopKind, StopReason
from orchestrator.core.states import RankState
from orchestrator.diagnosis.evidence import (
    Case,
    Cause,
    Certainty,
    Culprit,
    DeviceHealth,
    DiskRoom,
    HostEvidence,
    KernelLine,
    LogLine,
    RankEvidence,
)

__all__ = ["CORPUS", "Example", "read_corpus"]

CORPUS = Path(__file__).parent / "corpus"
Data = Mapping[str, Any]
_SOURCES = {"log": "worker", "plog": "plog/debug", "run": "plog/run"}
_KINDS = {RankState.STOPPED: EndKind.STOPPED, RankState.LOST: EndKind.LOST}


@dataclass(frozen=True)
class Example:
    """One failure: the evidence, and what a reader of it would say."""

    name: str
    case: Case
    expect: Data
    is_published: bool
    victim_first: bool
    is_unknown: bool
    is_later: bool  # not gathered before the signatures were written

    def complaint(self, cause: Cause) -> str:
        """What is wrong with this verdict; empty where nothing is."""
        wanted = self.expect
        if self.is_unknown:
            missing = [named for named in wanted.get("suspects", ()) if not _is_among(named, cause.suspects)]
            if cause.certainty is not Certainty.UNKNOWN or cause.culprit is not None:
                return "somebody is accused"
            return f"not among the suspects: {missing}" if missing else ""
        if cause.kind != wanted["kind"]:
            return f"kind {cause.kind}, not {wanted['kind']}"
        if "suspects" in wanted:
            missing = [named for named in wanted["suspects"] if not _is_among(named, cause.suspects)]
            return f"not among the suspects: {missing}" if missing else ""
        if "host" not in wanted:
            return "" if cause.culprit is None else "somebody is accused"
        if cause.culprit is None or not _is_meant(wanted, cause.culprit):
            return f"{cause.culprit}, not {dict(wanted)}"
        return "" if cause.certainty is not Certainty.UNKNOWN else "not certain"


@functools.cache
def read_corpus() -> tuple[Example, ...]:
    """Every case of every file, in their order."""
    return tuple(
        _example(data, path.name >= "09")
        for path in sorted(CORPUS.glob("*.yaml"))
        for data in yaml.safe_load(path.read_text("utf-8"))
    )


def _is_among(named: Data, found: Sequence[Culprit]) -> bool:
    return any(_is_meant(named, culprit) for culprit in found)


def _is_meant(named: Data, culprit: Culprit) -> bool:
    if named.get("host") != culprit.host:
        return False
    if "rank" not in named:
        return "device" in named or culprit.rank is None or "kind" not in named
    if "device" in named and culprit.device != named["device"]:
        return False
    return named["rank"] == "any" or culprit.rank == named["rank"]


def _example(data: Data, is_later: bool) -> Example:
    hosts = data.get("hosts", {})
    ranks = tuple(rank for group in _devices(data["ranks"]) for rank in _group(group, data.get("clock", {})))
    names = {rank.host for rank in ranks} | set(hosts)
    case = Case(
        ranks,
        {name: _host(name, hosts.get(name, {})) for name in sorted(names)},
        world_size=sum(rank.rank >= 0 for rank in ranks),
        stopped_by_hand=data.get("stopped_by_hand", False),
        addresses={name: _address(place) for name, place in data.get("addresses", {}).items()},
    )
    return Example(
        data["id"],
        case,
        data["expect"],
        bool(data.get("published")),
        data.get("first") == "victim",
        bool(data.get("unknown")),
        is_later,
    )


def _address(place: Any) -> tuple[str, int | None]:
    return (place, None) if isinstance(place, str) else (place[0], place[1])


def _numbers(text: Any) -> range:
    first, _, last = str(text).partition("-") if not isinstance(text, int) else (str(text), "", "")
    return range(int(first), int(last or first) + 1)


def _devices(groups: Sequence[Data]) -> Iterator[Data]:
    """The groups, each with the device of its first rank: those of a host are counted."""
    used: dict[str, int] = {}
    for group in groups:
        numbers = _numbers(group["r"])
        first = group.get("device", used.get(group["host"], 0))
        used[group["host"]] = first + len(numbers) if numbers[0] >= 0 else used.get(group["host"], 0)
        yield {**group, "device": first if numbers[0] >= 0 else None}


def _group(group: Data, clocks: Mapping[str, Data]) -> Iterator[RankEvidence]:
    clock = clocks.get(group["host"], {})
    ahead, error = clock.get("ahead", 0.0), clock.get("error", 0.05)
    fails = "exit" in group or "signal" in group or "kind" in group
    state = RankState(group.get("state", "failed" if fails else "stopped"))
    time = group["time"] - ahead
    lines = tuple(
        LogLine(source, line, None)
        if isinstance(line, str)
        else LogLine(source, line["text"], line["at"] - ahead)
        for key, source in _SOURCES.items()
        for line in group.get(key, ())
    )
    for place, number in enumerate(_numbers(group["r"])):
        yield RankEvidence(
            number,
            group["host"],
            None if group["device"] is None else group["device"] + place,
            state,
            _end(group, state, time),
            time,
            error,
            group.get("pid", 1000 + number - place) + place,
            group.get("phase", ""),
            group.get("step"),
            lines,
        )


def _end(group: Data, state: RankState, time: float) -> End | None:
    if not state.is_terminal:
        return None
    default = EndKind.SIGNALLED if "signal" in group else EndKind.EXITED
    kind = _KINDS.get(state) or EndKind(group.get("kind", default))
    reason = None
    if state is RankState.STOPPED:
        reason = StopReason(StopKind(group.get("stop", "worker_failed")))
    return End(
        kind, time, group.get("exit"), group.get("signal"), message=group.get("message", ""), reason=reason
    )


def _host(name: str, data: Data) -> HostEvidence:
    fields = dict(data)
    fields["kernel"] = tuple(KernelLine(text) for text in data.get("kernel", ()))
    fields["disks"] = tuple(DiskRoom(**disk) for disk in data.get("disks", ()))
    devices = [{**device, "codes": tuple(device.get("codes", ()))} for device in data.get("devices", ())]
    fields["devices"] = tuple(DeviceHealth(**device) for device in devices)
    fields["unread"] = tuple(data.get("unread", ()))
    return HostEvidence(name, **fields)
