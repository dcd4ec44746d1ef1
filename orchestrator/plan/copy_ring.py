"""The ring of the copies: to which host each host's shards are copied. Pure.

A copy is for the day on which a host is gone, and hosts of a rack go together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.config.host_ranges import fold
from orchestrator.config.inventory import Host, Inventory
from orchestrator.config.inventory_copies import CopyNetwork
from orchestrator.core.errors import ConfigError, Problem

if TYPE_CHECKING:  # see plan/placement.py
    from orchestrator.config.job import Job

__all__ = ["RACK", "CopyRing", "copy_ring", "keepers_of", "within_rack"]

RACK = "rack"  # the label of a host that says what fails together


@dataclass(frozen=True, slots=True)
class CopyRing:
    """Where the copies of an attempt go: `keepers` names, for each host, the one that has its copies.

    They go over `network`, to one of `ports` (first and last); `keep` steps of each host stay. `rate` are the
    Gbit/s that a host can send there, None where nobody has said.
    """

    network: str
    ports: tuple[int, int]
    keep: int
    keepers: dict[str, str] = field(default_factory=dict)
    rate: float | None = None

    @property
    def over(self) -> CopyNetwork:
        """The network, as an inventory has it."""
        return CopyNetwork(network=self.network, ports=self.ports, rate=self.rate)

    def owners_of(self, host: str) -> tuple[str, ...]:
        """The hosts whose copies this one keeps."""
        return tuple(owner for owner, keeper in self.keepers.items() if keeper == host)


def keepers_of(hosts: Sequence[Host]) -> dict[str, str]:
    """The keeper of each host: never itself, and each host keeps for one.

    It is in another rack as often as can be: always, unless one rack has more than half of the hosts. Hosts
    without the label count as one rack. Empty for a single host.
    """
    if len(hosts) < 2:
        return {}
    racks: dict[str, list[str]] = {}
    for host in hosts:
        racks.setdefault(host.labels.get(RACK, ""), []).append(host.name)
    # Rack by rack, the largest first: whoever is as many places further as the largest has is in another one.
    order = [name for names in sorted(racks.values(), key=len, reverse=True) for name in names]
    shift = len(max(racks.values(), key=len)) % len(order) or 1
    return {name: order[(place + shift) % len(order)] for place, name in enumerate(order)}


def within_rack(hosts: Sequence[Host], keepers: dict[str, str]) -> list[str]:
    """The hosts whose keeper is in their own rack, though there are several racks."""
    rack = {host.name: host.labels.get(RACK, "") for host in hosts}
    if len(set(rack.values())) < 2:
        return []
    return [name for name, keeper in keepers.items() if rack[name] == rack[keeper]]


def copy_ring(
    job: Job, inventory: Inventory, hosts: Sequence[Host], *, number: int = 1
) -> tuple[CopyRing | None, tuple[str, ...]]:
    """Where the copies of attempt `number` of a job go, None where it wants none, and notes.

    Raises ConfigError, also where a run begins on one host; one that goes on with fewer may come to that.
    """
    if not job.checkpoint.copies:
        return None, ()
    where = job.where("checkpoint", "copies")
    if len(hosts) < 2 and number == 1:
        raise ConfigError([Problem(where, "a copy needs a second host, and the job has one", "remove it")])
    network = inventory.copies
    if network is None:
        what = f"{inventory.path} does not say over which network copies go"
        remedy = "write `copy: {network: 10.20.0.0/16, ports: 29700-29731}` there"
        raise ConfigError([Problem(where, what, remedy)])
    keepers = keepers_of(hosts)
    ring = CopyRing(network.network, network.ports, job.checkpoint.keep, keepers, network.rate)
    return ring, tuple(_notes(job, hosts, keepers))


def _notes(job: Job, hosts: Sequence[Host], keepers: dict[str, str]) -> Iterator[str]:
    if job.task == "command":
        yield "checkpoint.copies: what is copied are shards named rank_<r>/<prefix>-<epoch>_<step>.ckpt"
    if job.task == "mindformers":
        yield "checkpoint.copies: what is copied are the files of ranks, and no checkpoint 2.0"
    if not keepers:
        yield "checkpoint.copies: there is one host, so that nothing is copied"
    if close := within_rack(hosts, keepers):
        yield f"copies of {fold(close)} stay in their own rack: it has more than half of the hosts"
