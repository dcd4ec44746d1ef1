"""What is asked of the hosts: by a job, or by nobody in particular."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.inventory import Host

__all__ = ["Needs", "Pings"]

# Which hosts' devices ping each other: none, each host and the next one, or all pairs of hosts.
Pings = Literal["none", "ring", "pairs"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job asks of its hosts. Of several answers that should be equal, the first host's wins a tie.

    `devices` are the ids that it uses on each host. `ascend` says whether it runs on NPUs; None where there
    is no job: then the hosts that have Ascend's tools are meant. `port` is the scheduler's, if it is fixed.
    `env` are the variables of the job that HCCL, CANN and Python look at. `mindspore` says whether the
    workers are known to be MindSpore's; False where a job's own command may be anything.
    `scheduler` are the names of the place where it listens: an IP address, or the first host's names, the one
    of the inventory first; none where there is no scheduler. `by_table_alone`: a rank table stands for it.
    """

    hosts: tuple[Host, ...]
    packages: tuple[str, ...] = ()
    shipped_bytes: int = 0
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

    @property
    def bundled(self) -> bool:
        """Whether the job runs the bundled model, whose requirements are known."""
        return self.has_job and bool(self.packages)

    @property
    def master(self) -> Host:
        """The host of rank 0, where the scheduler runs."""
        return self.hosts[0]

    def host(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)
