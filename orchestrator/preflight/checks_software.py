"""Checks of what is installed: it must be there, and the same on every host."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.ascend.discovery import info_of
from orchestrator.ascend.hccl_env import EnvFault, env_faults
from orchestrator.ascend.npu_smi import parse_board
from orchestrator.config.yaml_messages import plain, show
from orchestrator.core.errors import ToolOutputError
from orchestrator.preflight.host_facts import Facts, HostFacts, Needs, board_call, environment_of, npus_of
from orchestrator.preflight.report import Level, Result, agree
from orchestrator.preflight.versions import SUPPORTED, compared

__all__ = [
    "drivers_agree",
    "environment_is_valid",
    "firmware_agrees",
    "packages_are_installed",
    "python_agrees",
]


def python_agrees(needs: Needs, facts: Facts) -> Iterator[Result]:
    versions = {host: fact.probe.python for host, fact in facts.items()}
    yield from agree("Python", versions, "set `python:` to the same version on all hosts")


def packages_are_installed(needs: Needs, facts: Facts) -> Iterator[Result]:
    if not needs.packages:
        yield from (Result(host, Level.SKIP, "the job's own command brings what it needs") for host in facts)
    looked = {host: fact for host, fact in facts.items() if not fact.environment_unknown}
    if needs.packages:
        yield from (Result(host, Level.SKIP, "not known") for host in facts if host not in looked)
    for package in needs.packages:
        versions = {host: fact.packages.get(package) for host, fact in looked.items()}
        for host, version in versions.items():
            if version is None:
                yield _not_installed(needs, host, package, looked[host])
            elif package == "mindspore":
                yield from _unsupported(needs, host, version, looked[host])
        installed = {host: version for host, version in versions.items() if version is not None}
        yield from agree(package, installed, "install the same version on all hosts")


def _unsupported(needs: Needs, host: str, version: str, fact: HostFacts) -> Iterator[Result]:
    """Too old is known not to work; what is newer than all that were tested may."""
    stands = compared(version)
    executable = fact.probe.executable
    remedy = f"install one of the range there (`{executable} -m pip install 'mindspore{SUPPORTED}'`)"
    if fact.probe.image is not None:
        remedy = "use an image that has one of the range"
    if stands == "older":
        level = Level.FAIL if needs.has_job else Level.WARN
        yield Result(
            host, level, f"mindspore {version} is older than what is supported ({SUPPORTED})", remedy
        )
    elif stands != "supported":
        what = "is newer than what was tested" if stands == "newer" else "is no version that was tested"
        yield Result(host, Level.WARN, f"mindspore {version} {what} ({SUPPORTED})", remedy)


def _not_installed(needs: Needs, host: str, package: str, fact: HostFacts) -> Result:
    executable = fact.probe.executable
    remedy = f"install it there (`{executable} -m pip install {package}`) or set `python:`"
    # Without a job nobody has said that it is needed.
    level = Level.FAIL if needs.has_job else Level.WARN
    if fact.probe.image is not None:
        what = f"{package} is not installed in the image {plain(fact.probe.image.image)}"
        return Result(host, level, what, "use an image that has it, or set container.python")
    return Result(host, level, f"{package} is not installed for {executable}", remedy)


def drivers_agree(needs: Needs, facts: Facts) -> Iterator[Result]:
    versions = {}
    for host, fact in facts.items():
        info = info_of(fact.tools) if fact.tools else None
        versions[host] = info.driver if info else None
    yield from agree("driver", versions, "install the same driver on all hosts", _NO_TABLE)


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
    yield from agree("firmware", versions, "install the same firmware on all hosts", _NO_TABLE)


_LONGEST_LINE = 200


def environment_is_valid(needs: Needs, facts: Facts) -> Iterator[Result]:
    """What HCCL will read, as the workers have it: the job's variables, and what env_script makes of them."""
    for host, fact in facts.items():
        env = environment_of(needs, fact)
        is_910a = bool(fact.found and fact.found.kind == "910A")
        faults = list(env_faults(env, is_910a=is_910a, mindspore=needs.mindspore))
        results = [_fault(needs, host, env, fault) for fault in faults]
        if not needs.mindspore:
            # Whose defaults hold only the job's author knows.
            others = [
                fault for fault in env_faults(env, is_910a=is_910a, mindspore=True) if fault not in faults
            ]
            results += [_fault(needs, host, env, fault, Level.WARN) for fault in others]
        yield from [*results, *_overridden(needs, host, env)] or [Result(host, Level.OK)]


def _fault(
    needs: Needs, host: str, env: dict[str, str], fault: EnvFault, level: Level = Level.FAIL
) -> Result:
    mine = needs.env.get(fault.name)
    origin = "the host's env_script" if env.get(fault.name) != mine else "the job's env"
    what = plain(f"{fault.name} {fault.what}")
    if len(what) > _LONGEST_LINE:
        what = f"{what[:_LONGEST_LINE]}..."
    return Result(host, level, what, f"{fault.remedy}, in {origin}")


def _overridden(needs: Needs, host: str, env: dict[str, str]) -> Iterator[Result]:
    """A script that is sourced has the last word; that the job's is lost is told."""
    for name, value in needs.env.items():
        if name not in env:
            what = f"{name} is unset by env_script, not {show(value)} as the job says"
            yield Result(host, Level.WARN, what, "let env_script leave it alone")
        elif env[name] != value:
            what = f"{name} is {show(env[name])} by env_script, not {show(value)} as the job says"
            yield Result(
                host, Level.WARN, what, f"let env_script set it only where it is not set (${{{name}:-...}})"
            )
