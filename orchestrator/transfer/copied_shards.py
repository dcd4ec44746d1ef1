"""The copies of shards among what hosts list: they count by the word of their owners, and by nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.agent.saved_steps import check_shard
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.control.copied_files import OwnersWord
from orchestrator.core.errors import CheckpointError

__all__ = ["known_files", "require_owners_word", "require_whole_here"]


def known_files(rows: Iterable[Mapping[str, Any]], said: OwnersWord, attempt: int) -> list[ShardFile]:
    """The shards of an attempt, and the copies of which their owners have `said` what they are."""
    files = []
    for file in map(ShardFile.of, rows):
        sha256 = said.get((attempt, file.owner, file.name), "") if file.owner else ""
        if sha256 or not file.owner:
            files.append(replace(file, sha256=sha256))
    return files


def require_owners_word(file: ShardFile, found: str | None) -> None:
    """Raise CheckpointError for a copy whose bytes are not what its owner has said."""
    if file.owner and file.sha256 != found:
        what = f"is not the shard that {file.owner} has had: its checksum is another one"
        raise CheckpointError(what, where=file.path)


def require_whole_here(file: ShardFile) -> None:
    """The same for a copy on a host that is this machine, all of which is read for it."""
    require_owners_word(file, check_shard(file.path, file.identity, hashed=True)["sha256"])
