"""The table of all checks, and what it means to make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.core.errors import OrchestrateError
from orchestrator.preflight import checks_cann, checks_devices, checks_host, checks_network, checks_software
from orchestrator.preflight.checks_container import images_agree, runtimes_answer
from orchestrator.preflight.checks_copies import copies_get_there
from orchestrator.preflight.checks_scheduler import scheduler_is_reached
from orchestrator.preflight.host_facts import Facts, Needs
from orchestrator.preflight.pings import devices_reach_each_other
from orchestrator.preflight.report import Level, Report, Result

__all__ = ["CHECKS", "Check", "run_checks"]


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table; `ascend` checks make sense only on hosts with NPUs.

    `environment` checks judge what the workers' environment gives, not known where it cannot be made.
    """

    name: str
    judge: Callable[[Needs, Facts], Iterator[Result]]
    ascend: bool = False
    environment: bool = False


CHECKS = (
    Check("write access", checks_host.workdir_is_writable),
    Check("workdir", checks_host.workdirs_differ),
    Check("disk", checks_host.disk_has_space),
    Check("shared memory", checks_host.shared_memory_suffices),
    Check("memory", checks_host.memory_suffices),
    Check("limits", checks_host.limits_suffice),
    Check("clock", checks_host.clocks_agree),
    Check("host name", checks_host.host_names_differ, ascend=True),
    Check("ports", checks_host.ports_are_free),
    Check("scheduler", scheduler_is_reached),
    Check("copies", copies_get_there),
    Check("paths", checks_host.paths_exist),
    Check("container", runtimes_answer),
    Check("image", images_agree),
    Check("env script", checks_host.env_script_is_there),
    Check("python", checks_software.python_agrees),
    Check("packages", checks_software.packages_are_installed),
    Check("environment", checks_software.environment_is_valid, ascend=True, environment=True),
    Check("CANN", checks_cann.cann_agrees, ascend=True, environment=True),
    Check("CANN fits", checks_cann.cann_fits_mindspore, ascend=True, environment=True),
    Check("CANN Python", checks_cann.cann_gives_python, ascend=True, environment=True),
    Check("visible", checks_cann.devices_keep_their_numbers, ascend=True, environment=True),
    Check("driver", checks_software.drivers_agree, ascend=True),
    Check("firmware", checks_software.firmware_agrees, ascend=True),
    Check("tools", checks_devices.tools_answer, ascend=True),
    Check("chip", checks_devices.chips_are_as_said, ascend=True),
    Check("health", checks_devices.devices_are_healthy, ascend=True),
    Check("ECC", checks_devices.memory_is_sound, ascend=True),
    Check("in use", checks_devices.devices_are_free),
    Check("device IP", checks_network.addresses_are_known, ascend=True),
    Check("link", checks_network.links_are_up, ascend=True),
    Check("net health", checks_network.networks_are_healthy, ascend=True),
    Check("netdetect", checks_network.netdetect_is_set, ascend=True),
    Check("gateway", checks_network.gateways_are_set, ascend=True),
    Check("TLS", checks_network.tls_is_equal, ascend=True),
    Check("super pod", checks_network.vnics_are_up, ascend=True),
    Check("ping", devices_reach_each_other, ascend=True),
)


def run_checks(needs: Needs, facts: Facts, errors: dict[str, OrchestrateError]) -> Report:
    """Make every check on the hosts that answered; the first row says which did."""
    results = [("connect", [*_unreached(errors), *(Result(host, Level.OK) for host in facts)])]
    has_npus = bool(needs.ascend) or (needs.ascend is None and any(fact.has_tools for fact in facts.values()))
    reason = "the job runs on CPUs" if needs.ascend is False else "no Ascend tools there"
    for check in CHECKS:
        if check.ascend and not has_npus:
            results.append((check.name, [Result(host, Level.SKIP, reason) for host in facts]))
        else:
            results.append((check.name, list(_judged(check, needs, facts))))
    return Report(results, errors)


def _judged(check: Check, needs: Needs, facts: Facts) -> Iterator[Result]:
    unknown = [host for host, fact in facts.items() if check.environment and fact.environment_unknown]
    # Its own row says why.
    yield from (Result(host, Level.SKIP, "not known") for host in unknown)
    known = {host: fact for host, fact in facts.items() if host not in unknown}
    if known:
        yield from check.judge(needs, known)


def _unreached(errors: dict[str, OrchestrateError]) -> Iterator[Result]:
    for host, error in errors.items():
        yield Result(host, Level.FAIL, error.what, error.remedy)
