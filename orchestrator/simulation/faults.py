"""The fault schedule of a simulation as data: what goes wrong when and where, as people write it in YAML.

    faults:
      - {time: 90s, kind: exit, rank: 7, code: 1, lines: ["RuntimeError: out of memory"]}
      - {time: 2h, kind: partition, host: node012, seconds: 10m}
      - {time: 3h, kind: power_off, host: node044}
      - {time: 4h, kind: return, host: node044}

Times count from the launch. What a fault does is in the table of kinds, `_KINDS`; whether it leaves evidence
that suffices to name who failed is judged in `fault_evidence`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from orchestrator.config.job_fields import Duration, Text, WholeNotNegative
from orchestrator.config.schema import Limits, Section, key, read
from orchestrator.config.yaml_messages import Finding, Invalid, nearest, show
from orchestrator.config.yaml_reader import YamlFile, read_yaml

__all__ = ["FAULT_KEYS", "Fault", "Kind", "Lie", "Ranks", "read_faults"]

Kind = Literal[
    "kill",
    "exit",
    "freeze",
    "hang",
    "kill_supervisor",
    "kill_guardian",
    "fill_disk",
    "reboot",
    "power_off",
    "partition",
    "refuse_login",
    "slow",
    "clock_jump",
    "lie",
    "monitor_kill",
    "return",
]
Lie = Literal["no_answer", "other_ranks", "other_run", "garbage", "flood"]
Ranks = Mapping[str, Sequence[int]]  # the ranks of each host of a run, by its name

_MOST = 10_000
_BOOT = 180.0  # a server's firmware and system, until its SSH server answers
_RESTART = 10.0
_Code = Annotated[int, Limits(ge=0, le=255)]
_Slowness = Annotated[float, Limits(ge=1, le=1e6)]
_Jump = Annotated[float, Limits(ge=-3e8, le=3e8)]

# Kind -> where it happens, and which keys it has beside `time`, `kind` and that.
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    # SIGKILL to the rank's process group, as the kernel does that has no memory left.
    "kill": ("rank", ()),
    # The rank's process ends with `code`, its log with `lines`.
    "exit": ("rank", ("code", "lines")),
    # SIGSTOP to the rank's process group: SIGTERM has no effect until it goes on.
    "freeze": ("rank", ("seconds",)),
    # The rank makes no step any more, but ends at SIGTERM.
    "hang": ("rank", ("seconds",)),
    # SIGKILL to the host's supervisor: its guardian ends the workers, and says so.
    "kill_supervisor": ("host", ()),
    # SIGKILL to the supervisor's parent: the supervisor stops the workers.
    "kill_guardian": ("host", ()),
    # The file system of the host's workdir has no space: who saves there fails.
    "fill_disk": ("host", ("seconds",)),
    # All processes of the host are gone; it answers again after `seconds`, with another boot.
    "reboot": ("host", ("seconds",)),
    # As a reboot that does not come back by itself.
    "power_off": ("host", ()),
    # No bytes pass between the host and the control node, or (`scope: all`) between the host and anybody.
    "partition": ("host", ("seconds", "scope")),
    # New connections are refused to our account; those that are open stay.
    "refuse_login": ("host", ("seconds",)),
    # Each answer comes `delay` seconds later, and a step takes `factor` times as long.
    "slow": ("host", ("seconds", "delay", "factor")),
    # The host's clock shows `jump` seconds more from now on.
    "clock_jump": ("host", ("jump",)),
    # The host's answers are none: see `lie`.
    "lie": ("host", ("seconds", "lie")),
    # The monitor is killed; after `seconds` another one takes over.
    "monitor_kill": ("", ("seconds",)),
    # The host is there again, whatever kept it away; after a power_off with another boot.
    "return": ("host", ()),
}
FAULT_KEYS = {kind: tuple(filter(None, (where, *keys))) for kind, (where, keys) in _KINDS.items()}
_NEEDED = {"clock_jump": "jump"}
_LASTS = {"reboot": _BOOT, "monitor_kill": _RESTART}


@dataclass(frozen=True, slots=True)
class Fault(Section):
    """One thing that goes wrong, `time` seconds after the launch.

    Keys that its kind does not use keep their defaults.
    """

    time: Duration
    kind: Kind
    host: Text | None = key(None, "where, by its name in the inventory")
    rank: WholeNotNegative | None = key(None, "to whom")
    seconds: Duration | None = key(
        None, "how long it lasts; null: a reboot 180 s, a new monitor after 10 s, else until it returns"
    )
    code: _Code = key(1, "the exit code")
    lines: tuple[Text, ...] = key((), "the last lines of its log")
    delay: Duration = key(5.0, "seconds by which each answer of the host is late")
    factor: _Slowness = key(1.0, "how many times as long a step takes")
    jump: _Jump = key(0.0, "seconds by which the host's clock goes on, or back")
    lie: Lie = key(
        "no_answer",
        "`no_answer`: bytes that are no message; `other_ranks`, `other_run`: of those that are not its own; "
        "`garbage`: values of wrong types; `flood`: more than any answer has",
    )
    scope: Literal["control", "all"] = key("control", "from whom a partition keeps the host")

    @property
    def lasts(self) -> float | None:
        """For how many seconds; None: for good, or until the host returns."""
        return _LASTS.get(self.kind) if self.seconds is None else self.seconds

    @property
    def until(self) -> float:
        """When it ends by itself, in seconds since the launch; infinity where it does not."""
        return float("inf") if self.lasts is None else self.time + self.lasts


@dataclass(frozen=True, slots=True)
class _FaultFile(Section):
    faults: tuple[Fault, ...]


def read_faults(path: Path, hosts: Ranks) -> tuple[Fault, ...]:
    """The faults of a file in the order of their times, for a run with these ranks on these hosts.

    Raises ConfigError with every problem of the file: unknown keys, values out of bounds, hosts and ranks
    that the run has not.
    """
    file = read_yaml(path)
    try:
        faults = read(_FaultFile, file.data).faults
    except Invalid as error:
        raise file.refusal(error.findings) from None
    findings = list(_broken_rules(file, faults, hosts))
    if findings or file.problems:
        raise file.refusal(findings)
    return tuple(sorted(faults, key=lambda fault: fault.time))


def _broken_rules(file: YamlFile, faults: Sequence[Fault], hosts: Ranks) -> Iterator[Finding]:
    if len(faults) > _MOST:
        yield ("faults",), f"holds {len(faults):,} faults; {_MOST:,} are the most", "split the simulation"
        return
    world = sum(len(ranks) for ranks in hosts.values())
    for index, fault in enumerate(faults):
        given: Mapping[str, Any] = file.get(("faults", index))
        for loc, what, remedy in (*_of_kind(fault, given), *_of_place(fault, hosts, world)):
            yield ("faults", index, *loc), what, remedy


def _of_kind(fault: Fault, given: Mapping[str, Any]) -> Iterator[Finding]:
    known = FAULT_KEYS[fault.kind]
    where = _KINDS[fault.kind][0]
    for name in (where, _NEEDED.get(fault.kind, "")):
        if name and given.get(name) is None:
            yield (name,), f"is missing; kind {fault.kind} needs it", ""
    for name in given:
        if name not in ("time", "kind", *known):
            yield (
                (name,),
                f"is not used by kind {fault.kind}",
                f"it takes {', '.join(known) or 'no more keys'}",
            )


def _of_place(fault: Fault, hosts: Ranks, world: int) -> Iterator[Finding]:
    if fault.host is not None and fault.host not in hosts:
        yield ("host",), f"no host {show(fault.host)} is in the run", nearest(fault.host, hosts)
    if fault.rank is not None and fault.rank >= world:
        yield ("rank",), f"no rank {fault.rank} is in the run", f"it has ranks 0-{world - 1}"
