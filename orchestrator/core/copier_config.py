"""What a host's copier is told, as frozen dataclasses: whom it copies to, whose shards it keeps, and where.

On a host: `copier.json` (`CopierConfig`) and `copier.pem`, its key and certificate, in an attempt's folder.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import re
from typing import Mapping, Tuple

from orchestrator.core.codec import Stored
from orchestrator.core.record_class import dataclass, field
from orchestrator.core.records import FIRST, Attempt

__all__ = ["CONFIG_NAME", "KEY_NAME", "CopierConfig", "identity_uri", "is_host_name"]

CONFIG_NAME, KEY_NAME = "copier.json", "copier.pem"
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", re.ASCII)


@dataclass(frozen=True)
class CopierConfig(Stored):
    """One host's part in the copies of an attempt's checkpoints.

    It listens on `address`, on the first free one of `ports` (first and last), and sends the shards of its
    `ranks` to `keeper`, which listens on `keeper_address`. `owners` are the hosts whose shards it keeps, with
    their ranks. `authority` is the certificate that all of them are signed with; `keep` steps of each owner
    stay. `inside`: which step a shard is of it says itself, its name counts the steps of an epoch.
    """

    run_id: str
    host: str
    attempt: Attempt = FIRST
    address: str = ""
    ports: Tuple[int, int] = (0, 0)
    keeper: str = ""
    keeper_address: str = ""
    owners: Mapping[str, Tuple[int, ...]] = field(default_factory=dict)
    ranks: Tuple[int, ...] = ()
    authority: str = ""
    keep: int = 5
    inside: bool = False


def identity_uri(run_id: str, attempt: Attempt, host: str) -> str:
    """Who a copier is, as its certificate says it: the host in this very attempt of this very run."""
    return f"orchestrate://{run_id}/{attempt.number}/{attempt.token}/{host}"


def is_host_name(name: str) -> bool:
    """Whether it can be a folder's name, as inventories require it of a host."""
    return _HOST.fullmatch(name) is not None
