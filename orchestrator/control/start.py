"""The start of a run on its hosts: all of them are made ready, or none is left touched; then all are started.

check_hosts: connect, look, judge. start_run: push -> prepare -> verify -> start -> commit
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.config.inventory import Host
from orchestrator.core.errors import AgentError, PreflightError
from orchestrator.core.host_answers import Prepared
from orchestrator.core.paths import RUN_YAML
from orchestrator.core.records import Manifest
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet, HostResults
from orchestrator.hosts.push_content import content_files, push_missing, small_contents
from orchestrator.plan.complete_plan import complete_plan, on_free_devices
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.preflight.checks import run_checks
from orchestrator.preflight.checks_scheduler import scheduler_address
from orchestrator.preflight.gather_facts import look, look_between
from orchestrator.preflight.host_facts import HostFacts, Needs, needs_of

__all__ = ["Staying", "check_hosts", "start_run"]

# Seconds that a launch waits at most for another that is starting, before each further try; then it gives up.
_WAITS = (0.5, 1.0, 2.0, 0.0)


@dataclass(frozen=True, slots=True)
class Staying:
    """The hosts that stay from the attempt before, with the devices that they have had; those are ours still.

    They were looked at then, and are not again, but for `suspects`. `meeting` is the address where all
    workers meet, where the host of rank 0 is one of them. `avoided` are devices of any host that are not to
    be used though they may be free.
    """

    devices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    suspects: tuple[str, ...] = ()
    meeting: str | None = None
    avoided: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def trusted(self) -> frozenset[str]:
        """Those that are not looked at."""
        return frozenset(self.devices) - frozenset(self.suspects)


_NOBODY = Staying()


def check_hosts(
    plan: LaunchPlan,
    fleet: Fleet,
    report: Callable[[str], None],
    warn: Callable[[Sequence[str]], None],
    free: Callable[[Sequence[str]], None] = lambda hosts: None,
    *,
    staying: Staying = _NOBODY,
) -> LaunchPlan:
    """Look at every host of the plan; the plan, on free devices and with what only the hosts could tell.

    `report` is told the phase as it begins; `warn` what is doubtful, even where the launch is refused.
    `free` may end what is over on hosts that have too few free devices.
    Raises what keeps any host from running the job.
    """
    new = [host.name for host in plan.hosts if host.name not in staying.trusted]
    if new or not staying.devices:
        report("connecting")
    kept = {name: _others(plan, name, devices) for name, devices in staying.devices.items()}
    # As if nothing were held there: so it mostly is, and then hosts need not be asked twice.
    supposed = _needs_of(
        on_free_devices(plan, {**_with(dict.fromkeys(new, ()), staying.avoided), **kept}), new
    )
    looked = look(supposed, fleet, hosts=new, all_devices=True)
    busy = {name: list(facts.probe.busy_devices) for name, facts in looked.values.items()}
    chosen = on_free_devices(plan, {**_with(busy, staying.avoided), **kept})
    taken = [name for name, devices in busy.items() if set(devices) & set(chosen.manifests[name].devices)]
    if taken:
        free(taken)
        again = fleet.each(lambda agent: _busy_devices(agent, fleet.hosts[agent.host], plan), taken)
        known = _with({**busy, **again.values}, staying.avoided)
        chosen = on_free_devices(plan, {**known, **kept})
    plan, needs = chosen, _needs_of(chosen, new)
    facts: dict[str, HostFacts] = {}
    if new:
        looked = _looked_again(looked, supposed, needs, taken, fleet)
        facts, errors = look_between(needs, fleet, looked)
        checked = run_checks(needs, facts, errors)
        if warnings := [line for line in checked.warnings() if not _is_told(line, plan)]:
            warn(warnings)
        checked.raise_on_failure()
    found = {**plan.found, **{name: fact.found for name, fact in facts.items() if fact.found}}
    meeting = staying.meeting or scheduler_address(needs, facts)
    return complete_plan(
        dataclasses.replace(plan, found=found),
        found,
        port=_free_port(plan, fleet, facts, meeting),
        scheduler_host=meeting,
    )


def _looked_again(
    looked: HostResults[HostFacts], supposed: Needs, needs: Needs, taken: Collection[str], fleet: Fleet
) -> HostResults[HostFacts]:
    """The facts of every host for what is needed of it, where something else may have been `supposed`.

    Hosts with other devices than that are looked at once more, and so are those whose devices were `taken`.
    A host that did not answer is not waited for again.
    """
    is_other = dataclasses.replace(needs, devices=supposed.devices) != supposed
    stale = [
        name
        for name in looked.values
        if is_other or name in taken or needs.devices[name] != supposed.devices[name]
    ]
    again = look(needs, fleet, hosts=stale) if stale else HostResults[HostFacts]({}, {})
    facts = {
        name: _of_own(again.values.get(name, fact), needs.devices[name])
        for name, fact in looked.values.items()
        if name not in again.errors
    }
    return HostResults(facts, {**looked.errors, **again.errors})


def _of_own(fact: HostFacts, devices: Collection[int]) -> HostFacts:
    """With the devices that are held only of those that are meant for this run."""
    held = fact.probe.busy_devices
    own = tuple(device for device in held if device in devices)
    if len(own) == len(held):
        return fact
    return dataclasses.replace(fact, probe=dataclasses.replace(fact.probe, busy_devices=own))


def _with(
    busy: Mapping[str, Collection[int]], avoided: Mapping[str, Collection[int]]
) -> dict[str, list[int]]:
    """The devices of each host that are busy or avoided."""
    return {name: sorted({*devices, *avoided.get(name, ())}) for name, devices in busy.items()}


def _others(plan: LaunchPlan, name: str, devices: Collection[int]) -> list[int]:
    """The devices of a host that are not these."""
    host = next(host for host in plan.hosts if host.name == name)
    return [device.id for device in host.devices if device.id not in devices]


def _needs_of(plan: LaunchPlan, new: Collection[str]) -> Needs:
    """What is asked of the hosts that are looked at; where all meet only of the host where that is."""
    needs = needs_of(plan)
    if len(new) == len(plan.hosts):
        return needs
    needs = dataclasses.replace(needs, hosts=tuple(host for host in plan.hosts if host.name in new))
    if plan.master.name not in new:
        needs = dataclasses.replace(needs, scheduler=(), chooses_port=False, port=None)
    return needs


def _free_port(
    plan: LaunchPlan, fleet: Fleet, facts: Mapping[str, HostFacts], meeting: str | None
) -> int | None:
    """A port for the scheduler: each attempt has its own."""
    master = plan.master.name
    if master in facts:
        return facts[master].probe.port
    if not plan.chooses_port:
        return None
    answers = fleet.each(lambda agent: agent.probe(port_on=meeting or ""), [master]).raise_on_error()
    return answers[master].port


def _is_told(line: str, plan: LaunchPlan) -> bool:
    """Whether the plan warns of it by itself, of which whoever launches has been told."""
    text = line.partition(": ")[2]
    return any(text in warning for warning in plan.warnings)


def start_run(
    plan: LaunchPlan,
    fleet: Fleet,
    report: Callable[[str], None],
    *,
    sleep: Callable[[float], None] | None = None,
    chance: Callable[[], float] = random.random,
) -> None:
    """Start every worker of a completed plan on every host.

    `report` is told each phase as it begins; `sleep` is the fleet's by default. Raises the error of the host
    or hosts that failed; by then whatever had been begun anywhere has been undone.
    """
    report("pushing files")
    sources = content_files(plan.sources, may_be_gone=plan.attempt.number > 1)
    contents = small_contents(sources)
    if sources and not contents:
        timeout = plan.timeouts.prepare
        fleet.each(lambda agent: push_missing(agent, sources, timeout=timeout)).raise_on_error()
    try:
        report("preparing")
        # Made once: hosts that are prepared again, as another launch had a device, get the same.
        brought = _Brought(_copier_files(plan, fleet), contents)
        _verify(plan, _prepared(plan, fleet, sleep or fleet.scheduling.sleep, chance, brought))
        _place_shards(plan, fleet)
        report("starting")
        fleet.each(lambda agent: _start(plan, agent)).raise_on_error()
        fleet.each(lambda agent: agent.commit(plan.run_id)).raise_on_error()
    except BaseException:
        # What cannot be told, because the disk here is full, is done all the same.
        with contextlib.suppress(Exception):
            report("undoing")
        fleet.each(lambda agent: agent.undo(plan.run_id))
        raise


def _copier_files(plan: LaunchPlan, fleet: Fleet) -> Mapping[str, Mapping[str, str]]:
    if plan.copies is None:
        return {}
    from orchestrator.control.copies import copier_files  # late: most runs copy nothing

    return copier_files(plan, fleet)


def _place_shards(plan: LaunchPlan, fleet: Fleet) -> None:
    """What an attempt goes on from is on hosts already, in the folders of attempts before."""
    number, origin = plan.attempt.number, plan.origin
    if origin is None:
        return

    def place(agent: Agent) -> None:
        loads = plan.loads.get(agent.host, ())
        agent.place_shards(plan.run_id, number, loads, origin, timeout=plan.timeouts.prepare)

    fleet.each(place).raise_on_error()


def _busy_devices(agent: Agent, host: Host, plan: LaunchPlan) -> list[int]:
    return agent.busy_devices([device.id for device in host.devices], host.lock_dir, _kept_for(plan))


def _kept_for(plan: LaunchPlan) -> str:
    """Whose devices are free for this attempt though they are held: kept by the one before."""
    return plan.run_id if plan.attempt.number > 1 else ""


@dataclass(frozen=True, slots=True)
class _Brought:
    """What comes with the request to prepare: a host's own files as text, and small contents for all."""

    files: Mapping[str, Mapping[str, str]]
    contents: Mapping[str, bytes]


class _Taken(PreflightError):
    """A device that was free a moment ago is not any more."""


def _prepared(
    plan: LaunchPlan,
    fleet: Fleet,
    sleep: Callable[[float], None],
    chance: Callable[[], float],
    brought: _Brought,
) -> dict[str, Prepared]:
    """What every host has prepared.

    Of two launches at once each may find a device taken by the other's half: both let go, wait, and look
    again, each for a time of its own, so that one of them wins.
    """
    for longest in _WAITS:
        answers = fleet.each(lambda agent: _prepare(plan, agent, brought))
        if not any(isinstance(error, _Taken) for error in answers.errors.values()) or not longest:
            break
        fleet.each(lambda agent: agent.undo(plan.run_id))
        sleep(longest * (0.2 + 0.8 * chance()))
        if _is_still_busy(plan, fleet):
            break
    return dict(answers.raise_on_error())


def _is_still_busy(plan: LaunchPlan, fleet: Fleet) -> bool:
    answers = fleet.each(lambda agent: _held(agent, plan.manifests[agent.host]))
    return any(busy for busy in answers.values.values())


def _held(agent: Agent, manifest: Manifest) -> list[int]:
    return agent.busy_devices(manifest.devices, manifest.lock_dir, manifest.run_id)


def _prepare(plan: LaunchPlan, agent: Agent, brought: _Brought) -> Prepared:
    manifest, prepare = plan.manifests[agent.host], agent.prepare
    files = brought.files.get(agent.host)
    if plan.run_yaml:
        files = {**(files or {}), RUN_YAML: plan.run_yaml}
    if files:
        prepare = functools.partial(prepare, files=files)
    if brought.contents:
        prepare = functools.partial(prepare, contents=brought.contents)
    try:
        return prepare(manifest, plan.worker_config, plan.rank_table, timeout=plan.timeouts.prepare)
    except AgentError as error:
        # A port or device that was free a moment ago: the same news as from the checks, the same exit code.
        ours = _Taken if error.kind == "device_busy" else PreflightError
        raise ours(error.what, where=error.where, remedy=error.remedy) from None


def _verify(plan: LaunchPlan, prepared: Mapping[str, Prepared]) -> None:
    """Every host must hold the very bytes that were meant: unequal rank tables hang ranks for minutes."""
    expected = {"worker.yaml": hashlib.sha256(plan.worker_config.encode()).hexdigest()}
    if plan.rank_table is not None:
        expected["rank_table.json"] = hashlib.sha256(plan.rank_table.encode()).hexdigest()
    if plan.run_yaml:
        expected[RUN_YAML] = hashlib.sha256(plan.run_yaml.encode()).hexdigest()
    for host, answer in prepared.items():
        for name, sha256 in expected.items():
            found = answer.hashes.get(name, "none")
            if found != sha256:
                what = f"{name} is not the one that was sent: SHA-256 {found[:16]}, not {sha256[:16]}"
                raise AgentError(what, where=host, remedy="look at its disk")


def _start(plan: LaunchPlan, agent: Agent) -> None:
    answer = agent.start(plan.run_id)
    if answer.failed_first:
        label = answer.failed_first.replace("_", " ")
        raise PreflightError(
            f"{label} did not start: cannot start {answer.reason}",
            where=agent.host,
            remedy="mend `command:` of the job",
        )
