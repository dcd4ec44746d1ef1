"""The copies of shards among what hosts list: they count by the word of their owners, and by nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.agent.saved_steps import check_shard
from orchestrator.checkpoint.companion_files import SmallFile
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.control.copied_files import OwnersWord
from orchestrator.core.errors import CheckpointError
from orchestrator.core.host_answers import TensorEntry
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.transfer.small_files import KNOWN, Spool

__all__ = [
    "copied_strategies",
    "copies_read",
    "index_there",
    "known_files",
    "require_owners_word",
    "require_whole_here",
]

_STRATEGY = "strategy/"
# A disk that stands still this long has failed; a shard of many gigabytes is read to its end.
_INDEX_TIMEOUT, _CHECK_TIMEOUT = 300.0, 3600.0


def known_files(rows: Iterable[Mapping[str, Any]], said: OwnersWord, attempt: int) -> list[ShardFile]:
    """The shards of an attempt, and the copies of which their owners have `said` what they are."""
    files = []
    for file in map(ShardFile.of, rows):
        sha256 = said.get((attempt, file.owner, file.name), "") if file.owner else ""
        if sha256 or not file.owner:
            files.append(replace(file, sha256=sha256) if sha256 else file)
    return files


def copied_strategies(
    fleet: Fleet, plan: LaunchPlan, found: Mapping[str, SmallFile], said: OwnersWord, spool: Spool
) -> dict[str, SmallFile]:
    """The strategies of hosts that are gone, from where their copies are: those that are not `found` already.

    By the word of their owners, as shards.
    """
    ring, number = plan.copies, plan.attempt.number
    words = {
        (owner, name[len(_STRATEGY) :]): sha256
        for (attempt, owner, name), sha256 in said.items()
        if attempt == number and name.startswith(_STRATEGY)
    }
    missing = {(owner, name) for owner, name in words if name not in found}
    if ring is None or not missing:
        return {}
    keepers = {ring.keepers.get(owner, "") for owner, _ in missing} & set(fleet.hosts)

    def fetch(agent: Agent) -> dict[str, SmallFile]:
        files = {}
        for owner in ring.owners_of(agent.host):
            folder = f"copies/{owner}/strategy"
            pieces = agent.small_files(plan.run_id, folder, KNOWN["strategy"], attempt=plan.attempt)
            kept, _ = spool.take(pieces)
            said_so = {name for name, file in kept.items() if words.get((owner, name)) == file.sha256}
            files.update({name: kept[name] for name in said_so if name not in found})
        return files

    answers = fleet.each(fetch, sorted(keepers))
    return {name: file for files in answers.values.values() for name, file in files.items()}


def copies_read(files: Mapping[tuple[str, str], ShardFile]) -> list[str]:
    """A line on each host whose shards are taken from their copies; `files` by (host, path)."""
    taken: dict[tuple[str, str], int] = {}
    for (host, _), file in sorted(files.items()):
        if file.owner:
            taken[file.owner, host] = taken.get((file.owner, host), 0) + 1
    return [
        f"{owner}: {count} shard{'s' * (count > 1)} taken from the copies on {host}"
        for (owner, host), count in taken.items()
    ]


def require_owners_word(file: ShardFile, found: str | None) -> None:
    """Raise CheckpointError for a copy whose bytes are not what its owner has said."""
    if file.owner and file.sha256 != found:
        what = f"is not the shard that {file.owner} has had: its checksum is another one"
        raise CheckpointError(what, where=file.path)


def index_there(agent: Agent, path: str, file: ShardFile | None) -> Sequence[TensorEntry]:
    """What a file on another host holds; of a copy once it is known to be what its owner has said."""
    if file is not None and file.owner:
        found = agent.check_shard(path, file.identity, hashed=True, timeout=_CHECK_TIMEOUT)
        require_owners_word(file, found.sha256)
    return agent.index(path, timeout=_INDEX_TIMEOUT)


def require_whole_here(file: ShardFile) -> None:
    """The same for a copy on a host that is this machine, all of which is read for it."""
    require_owners_word(file, check_shard(file.path, file.identity, hashed=True)["sha256"])
