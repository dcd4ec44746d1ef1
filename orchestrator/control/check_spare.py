"""The check of one spare, by the rules for the hosts of its run: whether it could take the place of one."""

from __future__ import annotations

import dataclasses

from orchestrator.config.inventory import Device, Host
from orchestrator.core.errors import PreflightError
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.placement import choose_devices
from orchestrator.preflight.checks import run_checks
from orchestrator.preflight.gather_facts import gather
from orchestrator.preflight.host_facts import HostFacts, Needs, needs_of
from orchestrator.preflight.report import Level

__all__ = ["DevicesBusy", "check_spare", "facts_of_master", "free_devices"]


class DevicesBusy(PreflightError):
    """Too few of a spare's devices are free, which may be others any moment."""


def free_devices(plan: LaunchPlan, agent: Agent, spare: Host) -> tuple[int, ...]:
    """The devices of a spare that the run would use. Raises DevicesBusy where too few are free."""
    wanted = len(plan.manifests[plan.master.name].devices)
    ids = [device.id for device in spare.devices]
    # What an attempt before keeps there is the run's own.
    busy = agent.busy_devices(ids, spare.lock_dir, plan.run_id)
    chosen: tuple[Device, ...] | None = choose_devices(spare, wanted, busy)
    if chosen is None:
        what = f"{len(set(ids) - set(busy))} of its {len(ids)} devices are free, and {wanted} are wanted"
        raise DevicesBusy(what, where=spare.name)
    return tuple(device.id for device in chosen)


def facts_of_master(plan: LaunchPlan, fleet: Fleet) -> HostFacts | None:
    """The facts of the run's first host, which is as all others are; None where it does not tell.

    It is asked in a session of its own: nobody who waits for news of the run waits for that.
    """
    needs = _needs(plan, plan.master, plan.manifests[plan.master.name].devices)
    with fleet.apart([plan.master.name]) as part:
        facts, _ = gather(needs, part)
    return facts.get(plan.master.name)


def check_spare(
    plan: LaunchPlan, fleet: Fleet, spare: Host, devices: tuple[int, ...], known: HostFacts | None
) -> None:
    """Judge a spare by itself and beside the run's first host, where that one's facts are `known`.

    Raises PreflightError with all that is wrong with the spare, TransportError.
    """
    needs = _needs(plan, spare, devices)
    with fleet.part([spare.name]) as part:
        facts, errors = gather(needs, part)
    if errors:
        raise errors[spare.name]
    master = plan.master.name
    if known is not None:
        # First, so that it is the other one that differs.
        facts = {master: known, **facts}
        both = {master: plan.manifests[master].devices, **needs.devices}
        needs = dataclasses.replace(needs, hosts=(plan.master, spare), devices=both)
    report = run_checks(needs, facts, {})
    wrong = [row for row in report.rows() if row.level is Level.FAIL and spare.name in row.hosts]
    if wrong:
        what = "; ".join(dict.fromkeys(row.text for row in wrong))
        remedy = "; ".join(dict.fromkeys(row.remedy for row in wrong if row.remedy))
        raise PreflightError(what, where=spare.name, remedy=remedy)


def _needs(plan: LaunchPlan, host: Host, devices: tuple[int, ...]) -> Needs:
    """What is asked of one host by itself: no scheduler listens there, and no device has one to ping."""
    return dataclasses.replace(
        needs_of(plan, "none"),
        hosts=(host,),
        devices={host.name: devices},
        kept_for=plan.run_id,
        scheduler=(),
        port=None,
        chooses_port=False,
    )
