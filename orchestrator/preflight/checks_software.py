"""Checks of what is installed: it must be there, and the same on every host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from orchestrator.ascend.hccl_env import env_faults
from orchestrator.ascend.npu_smi_types import parse_board
from orchestrator.discovery.devices import info_of
from orchestrator.errors import ToolOutputError
from orchestrator.inventory import fold
from orchestrator.preflight.calls import board_call, npus_of
from orchestrator.preflight.facts import Facts, HostFacts
from orchestrator.preflight.needs import Needs
from orchestrator.preflight.report import Level, Result

__all__ = [
    "cann_agrees",
    "drivers_agree",
    "environment_is_valid",
    "firmware_agrees",
    "packages_are_installed",
    "python_agrees",
]


def _agree(
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


def python_agrees(needs: Needs, facts: Facts) -> Iterator[Result]:
    versions = {host: str(fact.probe["python"]) for host, fact in facts.items()}
    yield from _agree("Python", versions, "set `python:` to the same version on all hosts")


def packages_are_installed(needs: Needs, facts: Facts) -> Iterator[Result]:
    if not needs.packages:
        yield from (Result(host, Level.SKIP, "the job's own command brings what it needs") for host in facts)
    for package in needs.packages:
        versions = {host: fact.probe["packages"].get(package) for host, fact in facts.items()}
        for host, version in versions.items():
            if version is None:
                yield _not_installed(needs, host, package, facts[host])
        installed = {host: version for host, version in versions.items() if version is not None}
        yield from _agree(package, installed, "install the same version on all hosts")


def _not_installed(needs: Needs, host: str, package: str, fact: HostFacts) -> Result:
    executable = fact.probe["executable"]
    remedy = f"install it there (`{executable} -m pip install {package}`) or set `python:`"
    # Without a job nobody has said that it is needed.
    level = Level.FAIL if needs.has_job else Level.WARN
    return Result(host, level, f"{package} is not installed for {executable}", remedy)


def cann_agrees(needs: Needs, facts: Facts) -> Iterator[Result]:
    remedy = "install it, or let `env_script:` name its set_env.sh"
    unknown = Result("", Level.WARN, "no CANN toolkit is found", remedy)
    versions = {host: fact.probe.get("cann") for host, fact in facts.items()}
    # EI0008 of HCCL
    yield from _agree("CANN", versions, "install the same version on all hosts", unknown)


def drivers_agree(needs: Needs, facts: Facts) -> Iterator[Result]:
    versions = {}
    for host, fact in facts.items():
        info = info_of(fact.tools) if fact.tools else None
        versions[host] = info.driver if info else None
    yield from _agree("driver", versions, "install the same driver on all hosts", _NO_TABLE)


_NO_TABLE = Result("", Level.SKIP, "npu-smi gives no table")


def firmware_agrees(needs: Needs, facts: Facts) -> Iterator[Result]:
    """The same on all devices of all hosts; a failed upgrade leaves single devices behind."""
    versions: dict[str, str | None] = {}
    for host, fact in facts.items():
        found: dict[str | None, list[int]] = {}
        for npu in npus_of(fact):
            try:
                board = fact.tools[board_call(npu)].read(parse_board) if fact.tools else None
            except ToolOutputError as error:
                yield Result(host, Level.WARN, error.what, error.remedy, (npu,))
                continue
            found.setdefault(board.firmware if board else None, []).append(npu)
        if len(found) > 1:
            usual = max(found, key=lambda version: len(found[version]))
            for version, npus in found.items():
                if version != usual:
                    what = f"firmware {version}, but {usual} on the others"
                    yield Result(
                        host, Level.FAIL, what, "upgrade the firmware, then restart the host", tuple(npus)
                    )
        versions[host] = max(found, key=lambda version: len(found[version])) if found else None
    yield from _agree("firmware", versions, "install the same firmware on all hosts", _NO_TABLE)


def environment_is_valid(needs: Needs, facts: Facts) -> Iterator[Result]:
    """What HCCL will read: the hosts' own variables, and those of the job over them."""
    for host, fact in facts.items():
        given = fact.probe.get("environment", {})
        is_910a = bool(fact.found and fact.found.chip and fact.found.chip.endswith("910A"))
        faults = list(env_faults({**given, **needs.env}, is_910a=is_910a))
        for fault in faults:
            origin = "the job's env" if fault.name in needs.env else "the host's env_script"
            yield Result(host, Level.FAIL, f"{fault.name} {fault.what}", f"{fault.remedy}, in {origin}")
        if not faults:
            yield Result(host, Level.OK)
