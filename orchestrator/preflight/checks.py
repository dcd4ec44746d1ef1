"""One check, one function: the facts of all hosts in, what is wrong on which of them out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import HostsFailed, PreflightError
from orchestrator.inventory import Host

__all__ = ["CHECKS", "Finding", "Needs", "judge"]

Facts = Mapping[str, Mapping[str, Any]]
_LEAST_FREE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job asks of its hosts; the first host is the one the others are compared with."""

    hosts: tuple[Host, ...]
    packages: tuple[str, ...]
    shipped_bytes: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that keeps one host from running the job."""

    host: str
    what: str
    remedy: str


def workdir_is_writable(needs: Needs, facts: Facts) -> Iterator[Finding]:
    for host, fact in facts.items():
        if not fact["writable"]:
            yield Finding(host, f"no write access to {fact['workdir']}", "set another `workdir:`")


def disk_has_space(needs: Needs, facts: Facts) -> Iterator[Finding]:
    # Once in the content store and once in the run.
    needed = _LEAST_FREE_BYTES + 2 * needs.shipped_bytes
    for host, fact in facts.items():
        if fact["free_bytes"] < needed:
            free, wanted = fact["free_bytes"] >> 20, needed >> 20
            what = f"no space: {free} MiB free in {fact['workdir']}, {wanted} MiB needed"
            yield Finding(host, what, "free space there, or set another `workdir:`")


def devices_are_free(needs: Needs, facts: Facts) -> Iterator[Finding]:
    for host, fact in facts.items():
        if fact["busy_devices"]:
            devices = ", ".join(str(device) for device in fact["busy_devices"])
            yield Finding(host, f"device {devices} is in use by another run", "see `orchestrate runs`")


def env_script_is_there(needs: Needs, facts: Facts) -> Iterator[Finding]:
    for host in needs.hosts:
        if host.name in facts and not facts[host.name]["env_script_exists"]:
            yield Finding(host.name, f"env_script {host.env_script} does not exist", "mend the inventory")


def packages_are_installed(needs: Needs, facts: Facts) -> Iterator[Finding]:
    for host, fact in facts.items():
        for package in needs.packages:
            if fact["packages"].get(package) is None:
                what = f"{package} is not installed for {fact['executable']}"
                remedy = (
                    f"install it there (`{fact['executable']} -m pip install {package}`) or set `python:`"
                )
                yield Finding(host, what, remedy)


def versions_agree(needs: Needs, facts: Facts) -> Iterator[Finding]:
    reference_host = needs.hosts[0].name
    for package in needs.packages:
        versions = {host: fact["packages"].get(package) for host, fact in facts.items()}
        reference = versions.get(reference_host)
        for host, version in versions.items():
            if version and reference and version != reference:
                what = f"{package} {version}, but {reference} on {reference_host}"
                yield Finding(host, what, "install the same version on all hosts")


def host_paths_exist(needs: Needs, facts: Facts) -> Iterator[Finding]:
    for host, fact in facts.items():
        for path in fact["missing_paths"]:
            remedy = "put it there, or give a path relative to the job file to have it shipped"
            yield Finding(host, f"{path} does not exist", remedy)


CHECKS: tuple[Callable[[Needs, Facts], Iterator[Finding]], ...] = (
    workdir_is_writable,
    disk_has_space,
    devices_are_free,
    env_script_is_there,
    packages_are_installed,
    versions_agree,
    host_paths_exist,
)


def judge(needs: Needs, facts: Facts) -> None:
    """Raise with every finding of every check; return when all hosts are fit."""
    findings: dict[str, list[Finding]] = {}
    for check in CHECKS:
        for finding in check(needs, facts):
            findings.setdefault(finding.host, []).append(finding)
    errors = {
        host: PreflightError(
            "; ".join(finding.what for finding in found), where=host, remedy="; ".join(_remedies(found))
        )
        for host, found in findings.items()
    }
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        raise HostsFailed(errors)


def _remedies(found: list[Finding]) -> list[str]:
    return list(dict.fromkeys(finding.remedy for finding in found))
