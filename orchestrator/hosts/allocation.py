"""An allocation: which hosts are ours, and until when.

    asked for -> pending -> granted -> ending -> ended | revoked

An inventory is an allocation that is granted from the beginning and never ends; one of a batch system is
asked for, waited for, and may be taken away.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from orchestrator.config.inventory import Host, SshOptions
from orchestrator.hosts.fleet import Fleet, fleet_of

__all__ = ["WAITED_FOR", "Allocation", "AllocationState", "StaticAllocation"]


class AllocationState(enum.StrEnum):
    """Where an allocation is in its life. Its hosts may be used while it is granted or ending."""

    ASKED = "asked for"
    PENDING = "pending"
    GRANTED = "granted"
    ENDING = "ending"
    ENDED = "ended"
    REVOKED = "revoked"


WAITED_FOR = (AllocationState.ASKED, AllocationState.PENDING)


class Allocation(Protocol):
    """Hosts that are ours for a time. May be called from many threads."""

    @property
    def state(self) -> AllocationState:
        """Where it is now; asking costs nothing."""

    @property
    def until(self) -> float | None:
        """When it ends, in seconds since the epoch; None for never, or not known yet."""

    def hosts(self) -> tuple[Host, ...]:
        """The hosts, in their order; () until they are granted."""

    def fleet(self) -> Fleet:
        """Connections to the hosts, the caller's to close. TransportError where they are not ours now."""

    def release(self) -> None:
        """Give the hosts back; nothing where that was done before."""


@dataclass(frozen=True, slots=True)
class StaticAllocation:
    """The hosts of an inventory, or some of them: always there, and nobody's to give back."""

    chosen: tuple[Host, ...]
    ssh: SshOptions
    state: AllocationState = AllocationState.GRANTED
    until: float | None = None

    def hosts(self) -> tuple[Host, ...]:
        return self.chosen

    def fleet(self) -> Fleet:
        return fleet_of(self.chosen, self.ssh)

    def release(self) -> None:
        pass
