"""The facts of a host as the checks see it, and what a launch needs of its hosts and asks of their tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.agent.worker_environment import SCHEDULER_HOST, TOLD
from orchestrator.ascend.discovery import first_calls, info_of, later_calls
from orchestrator.ascend.found_devices import FoundHost
from orchestrator.ascend.npu_table import Chip
from orchestrator.ascend.tool_answers import Call, ToolAnswer, ToolAnswers, hccn, smi
from orchestrator.config.inventory import Host
from orchestrator.config.yaml_messages import plain
from orchestrator.core.host_answers import Probe
from orchestrator.core.records import WorkerSpec
from orchestrator.hosts.open_transport import ssh_name
from orchestrator.plan.copy_ring import CopyRing
from orchestrator.plan.launch_plan import LaunchPlan

__all__ = [
    "NETWORK",
    "AddressFacts",
    "CopyFacts",
    "Facts",
    "HostFacts",
    "Needs",
    "PingTry",
    "Pings",
    "board_call",
    "ecc_call",
    "environment_of",
    "first_questions",
    "health_call",
    "later_questions",
    "needs_of",
    "npus_of",
    "text_of",
    "variables_of",
]

# What is asked about every device's own network.
NETWORK = ("-link", "-net_health", "-netdetect", "-gateway", "-tls")


def board_call(npu: int) -> Call:
    return smi("-i", npu, "-t", "board")


def ecc_call(npu: int) -> Call:
    return smi("-i", npu, "-t", "ecc")


def health_call(chip: Chip) -> Call:
    words: list[str | int] = ["-c", chip.chip] if chip.by_chip else []
    return smi("-i", chip.npu, *words, "-t", "health")


def first_questions(ids: Sequence[int]) -> list[Call]:
    """What can be asked at once."""
    return first_calls(ids) + [hccn(device, command) for device in ids for command in NETWORK]


def later_questions(ids: Sequence[int], answers: ToolAnswers) -> list[Call]:
    """What only the table of chips tells to ask: the NPUs' numbers, and the codes of those that are ill."""
    info = info_of(answers)
    chips = [chip for chip in info.chips if not ids or chip.id in ids] if info else []
    npus = sorted({chip.npu for chip in chips})
    ill = [health_call(chip) for chip in chips if chip.health != "OK"]
    boards = [call for npu in npus for call in (board_call(npu), ecc_call(npu))]
    return [*later_calls(ids, answers), *boards, *ill]


def npus_of(fact: HostFacts) -> list[int]:
    """The NPUs whose board was asked for."""
    info = info_of(fact.tools) if fact.tools else None
    npus = {chip.npu for chip in info.chips} if info else set()
    return [npu for npu in sorted(npus) if fact.tools is not None and board_call(npu) in fact.tools]


# Which hosts' devices ping each other: none, each host and the next one, or all pairs of hosts.
Pings = Literal["none", "ring", "pairs"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job asks of its hosts. Of several answers that should be equal, the first host's wins a tie.

    `devices` are the ids that it uses on each host. `ascend` says whether it runs on NPUs; None where there
    is no job: then the hosts that have Ascend's tools are meant. `port` is the scheduler's, if it is fixed.
    `env` are the variables of the job that HCCL, CANN and Python look at. `mindspore` says whether the
    workers are known to be MindSpore's; False where a job's own command may be anything.
    `snapshot_bytes` is what copies of the shards may take of each host's memory, 0 where there are none.
    `scheduler` are the names of the place where it listens: an IP address, or the first host's names, the one
    of the inventory first; none where there is no scheduler. `by_table_alone`: a rank table stands for it.
    `copies` is where copies of checkpoints go, None: nowhere. `kept_for` is the run for whose next attempt
    devices may be kept, which are free for it.
    """

    hosts: tuple[Host, ...]
    packages: tuple[str, ...] = ()
    shipped_bytes: int = 0
    snapshot_bytes: int = 0
    devices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ascend: bool | None = False
    has_job: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    mindspore: bool = True
    paths: tuple[str, ...] = ()
    port: int | None = None
    chooses_port: bool = False
    scheduler: tuple[str, ...] = ()
    by_table_alone: bool = False
    pings: Pings = "none"
    copies: CopyRing | None = None
    kept_for: str = ""
    # Several checks ask for each of thousands of hosts.
    _by_name: dict[str, Host] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def bundled(self) -> bool:
        """Whether the job runs the bundled model, whose requirements are known."""
        return self.has_job and bool(self.packages)

    @property
    def master(self) -> Host:
        """The host of rank 0, where the scheduler runs."""
        return self.hosts[0]

    def host(self, name: str) -> Host:
        if name not in self._by_name:
            self._by_name.update({host.name: host for host in self.hosts})
        return self._by_name[name]


# No process can have a longer one: Linux takes 32 pages (MAX_ARG_STRLEN), which are up to 64 KiB on Arm.
_LONGEST_VALUE = 32 << 16


@dataclass(frozen=True, slots=True)
class PingTry:
    """One device of this host pinged the device of the same number of another host."""

    device: int
    peer: str
    address: str
    answer: ToolAnswer


@dataclass(frozen=True, slots=True)
class AddressFacts:
    """What a host's names mean, there and on this machine: IP addresses in the order of preference.

    `own` are those at which the host can listen. Two hosts of one `network` have the same interfaces, and so
    the same loopback; it is "" where unknown.
    """

    candidates: tuple[str, ...] = ()
    own: frozenset[str] = frozenset()
    network: str = ""


@dataclass(frozen=True, slots=True)
class CopyFacts:
    """Whether a host can take part in copies.

    `trouble` is why it cannot listen, "" where it can; `unreached` are hosts that it does not reach, and why.
    """

    trouble: str = ""
    address: str = ""
    has_tls: bool = True
    unreached: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host: `probe` is of agent/host_probe.py, `tools` and `found` None where no tool was asked.

    `addresses` is None where nothing hangs on them. `port_trouble` is why the scheduler cannot listen there.

    `clock_ahead` is how many seconds its clock is ahead of ours, at least; behind is negative.
    """

    probe: Probe
    clock_ahead: float = 0.0
    tools: ToolAnswers | None = None
    found: FoundHost | None = None
    pings: tuple[PingTry, ...] = ()
    addresses: AddressFacts | None = None
    port_trouble: str = ""
    copies: CopyFacts | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that HCCL and CANN look at, as the workers will have them."""
        return variables_of(self.probe.environment)

    @property
    def environment_trouble(self) -> str:
        """Why nothing is known of the workers' environment; "" where it was seen, or not asked for."""
        return text_of(self.probe.environment_trouble) or ""

    @property
    def environment_unknown(self) -> bool:
        """Whether what the workers will have is not known: their script is missing, or does not end well."""
        return bool(self.probe.environment_trouble) or not self.probe.env_script_exists

    @property
    def packages(self) -> dict[str, str]:
        """The versions of the packages that are installed for the workers."""
        return {plain(name): plain(version) for name, version in self.probe.packages.items() if version}

    @property
    def has_tools(self) -> bool:
        return self.tools is not None and (self.tools.has_tool("hccn_tool") or self.tools.has_tool("npu-smi"))


def text_of(value: str | None) -> str | None:
    """A short text of a host's answer, fit to be shown in a line; None where there is none."""
    return plain(value) if value else None


def variables_of(said: Mapping[str, str | None]) -> dict[str, str]:
    """The variables of a host's answer; what is not set, or too long to be true, is left out."""
    return {name: value for name, value in said.items() if value is not None and len(value) <= _LONGEST_VALUE}


def environment_of(needs: Needs, fact: HostFacts) -> dict[str, str]:
    """The variables that HCCL and CANN look at, as a host's workers will have them.

    Where the host has seen them, what it does not tell is not set, whatever the job says: a script may unset.
    """
    seen = fact.probe.environment_seen
    mine = {name: value for name, value in needs.env.items() if not (seen and name.startswith(TOLD))}
    return {**mine, **fact.environment}


# The hosts that answered, by name, in the order of the inventory.
Facts = Mapping[str, HostFacts]


# What HCCL, CANN and Python look at; the rest of a job's environment, secrets too, is not asked about.
_PREFIXES = ("HCCL_", "ASCEND_")
_NAMES = ("PYTHONPATH", "LD_LIBRARY_PATH", "PATH", "TOOLCHAIN_HOME")


def needs_of(plan: LaunchPlan, pings: Pings = "ring") -> Needs:
    """The needs of a launch. Reads the sizes of the files that it will send, as far as they are here."""
    worker = plan.manifests[plan.master.name].workers[0]
    return Needs(
        hosts=plan.hosts,
        packages=plan.packages,
        shipped_bytes=sum(map(_size, plan.sources.values())),
        snapshot_bytes=plan.snapshot_bytes,
        devices={name: manifest.devices for name, manifest in plan.manifests.items()},
        ascend=plan.ascend,
        env={
            name: value for name, value in worker.env.items() if name.startswith(_PREFIXES) or name in _NAMES
        },
        mindspore=_is_mindspore(plan, worker),
        paths=plan.host_paths,
        port=plan.manifests[plan.master.name].port,
        chooses_port=plan.chooses_port,
        scheduler=_scheduler_names(plan),
        by_table_alone=plan.by_table_alone,
        pings=pings if plan.ascend else "none",
        copies=plan.copies,
        kept_for=plan.run_id if plan.attempt.number > 1 else "",
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _is_mindspore(plan: LaunchPlan, worker: WorkerSpec) -> bool:
    """A command may be anything, but only MindSpore starts by a scheduler without a rank table."""
    return plan.task != "command" or ("MS_ROLE" in worker.env and "RANK_TABLE_FILE" not in worker.env)


def _scheduler_names(plan: LaunchPlan) -> tuple[str, ...]:
    """Where the scheduler listens: at an IP address, or at what these names mean; () where there is none."""
    scheduler = plan.manifests[plan.master.name].scheduler
    if scheduler is None:
        return ()
    if (address := scheduler.env["MS_SCHED_HOST"]) != SCHEDULER_HOST:
        return (address,)
    return tuple(dict.fromkeys((plan.master.address, ssh_name(plan.master, plan.ssh))))
