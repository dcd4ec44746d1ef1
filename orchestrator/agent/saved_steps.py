"""What the attempts of a run have saved on this host: whether it is whole, and its way to the next attempt.

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Sequence, Tuple

from orchestrator.agent.content_store import sha256_of_file
from orchestrator.agent.copy_store import copied_hosts
from orchestrator.agent.shard_ranges import Row, identity_of, index_shard, list_shards
from orchestrator.core.errors import AgentError, CheckpointError
from orchestrator.core.paths import RunDir
from orchestrator.core.records import Load
from orchestrator.core.safe_open import open_safely, require_folder, require_regular
from orchestrator.formats.ckpt_index import crc_matches, has_crc, map_file
from orchestrator.formats.shard_sum import Sum, read_sum, sum_of

__all__ = ["check_shard", "copies", "place", "saved"]

_PLACE = re.compile(r"(?:rank_\d{1,7}/)?[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", re.ASCII)


def saved(
    run: RunDir, tokens: Mapping[str, str], *, with_copies: bool = False, with_steps: bool = False
) -> Iterator[Row]:
    """The shards of every attempt, as `list_shards` has them, each with the number of its `attempt`.

    `with_copies`: those of other hosts that are kept here too, each with its `owner`. `with_steps`: with the
    step that each file itself says, as `list_shards` has it.

    Of an attempt whose token is another one than `tokens` has for its number there are none: it was of
    another launch, which came to nothing elsewhere, and shares nothing but the number.
    """
    for number in run.numbers() or [1]:  # a run of an older version has only its first
        if not run.is_of(number, tokens.get(str(number), "")):
            continue
        folder = run.pinned(number).attempt.checkpoint
        for row in list_shards(str(folder), follow_links=False, with_steps=with_steps):
            yield {**row, "attempt": number}
        for row in copies(run, number, with_steps=with_steps) if with_copies else ():
            yield {**row, "attempt": number}


def copies(run: RunDir, number: int, *, with_steps: bool = False) -> Iterator[Row]:
    """The shards of other hosts of which an attempt has copies here, each with its `owner`."""
    for owner, folder in copied_hosts(run, number):
        with contextlib.suppress(CheckpointError):  # what is ill with a copy hides no shard of the host's own
            for row in list_shards(str(folder), follow_links=False, with_steps=with_steps):
                yield {**row, "owner": owner}


def check_shard(path: str, identity: Sequence[int], *, hashed: bool) -> Dict[str, Any]:
    """What `ShardCheck` says of a file. CheckpointError: damaged, cut, or not the file that was meant."""
    _require_same(path, identity)
    for _ in index_shard(path):
        pass
    expected = read_sum(path)
    summed = expected is not None or _by_own_crc(path)
    if expected is not None and expected != _found(path, expected):
        raise CheckpointError("the checksum beside it does not fit: the file is damaged", where=path)
    answer: Dict[str, Any] = {"summed": summed, "sha256": _sha256_of(path) if hashed else None}
    _require_same(path, identity)
    return answer


def _found(path: str, expected: Sum) -> Sum:
    """The checksum of the file; where it has another length, that is told without reading it."""
    size = os.stat(path).st_size
    return sum_of(path) if size == expected.size else Sum(size, 0)


def _by_own_crc(path: str) -> bool:
    """Whether the file carries a checksum of its own, which fits; CheckpointError where it does not."""
    if not path.endswith(".ckpt"):
        return False
    with map_file(path) as buffer:
        if not has_crc(buffer):
            return False
        if not crc_matches(buffer):
            raise CheckpointError("the checksum does not fit: the file is damaged", where=path)
    return True


def _require_same(path: str, identity: Sequence[int]) -> None:
    try:
        status = require_regular(Path(path))
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error
    if identity_of(status) != list(identity):
        raise CheckpointError("has changed since it was listed", where=path, remedy="try again")


def _sha256_of(path: str) -> str:
    try:
        with os.fdopen(open_safely(Path(path), Path(path).parent), "rb") as file:
            return sha256_of_file(file)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror or error}", where=path) from error


def place(run: RunDir, number: int, loads: Sequence[Load]) -> None:
    """Put shards of earlier attempts where those of this one are loaded from: a second name of the same file.

    Where the file system has no hard links they are copied. AgentError: such a file is not there any more, or
    is another one by now.
    """
    if number != run.number:
        raise AgentError(f"attempt {number} is not in force here", kind="other_attempt")
    for load in loads:
        source, target = _places(run, number, load)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            require_folder(target.parent)
            _link(source, target)
            is_same = identity_of(require_regular(target))[:2] == list(load.identity)[:2]
        except OSError as error:
            where = error.filename or load.source
            raise AgentError(f"{where}: {error.strerror or error}", kind="missing_shard") from error
        if not is_same:
            target.unlink()
            raise AgentError(f"{load.source} has changed since it was listed", kind="missing_shard")


def _places(run: RunDir, number: int, load: Load) -> Tuple[Path, Path]:
    source = Path(load.source)
    inside = os.path.realpath(source).startswith(os.path.realpath(run.root) + os.sep)
    if not inside or not _PLACE.fullmatch(load.path):
        raise AgentError(f"{load.source}: is no shard of this run", kind="foreign")
    return source, run.attempts / str(number) / "load" / load.path


def _link(source: Path, target: Path) -> None:
    require_regular(source)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one that cannot
        if target.exists() and os.path.samefile(source, target):
            return  # another host, of a folder that both share, was first
        part = target.with_name(f".{target.name}")
        shutil.copy2(source, part)
        os.replace(part, target)
