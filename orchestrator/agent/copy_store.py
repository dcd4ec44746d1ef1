"""The copies of other hosts' shards on a keeper's disk: taken in whole or not at all, and removed again.

    runs/<run_id>/attempts/<n>/copies/<host>/checkpoint/rank_<r>/<name>, with its checksum beside it
                                            /strategy/<name>, how the shards are cut

Nothing is written anywhere else, and no link is followed: names are plain, and each folder is looked at.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import zlib
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from orchestrator.agent.shard_ranges import Row, list_shards, parse_name
from orchestrator.core.copier_config import is_host_name
from orchestrator.core.errors import CheckpointError
from orchestrator.core.paths import RunDir
from orchestrator.core.record_class import dataclass
from orchestrator.core.safe_open import require_folder
from orchestrator.formats.shard_sum import Sum, sum_path, write_sum
from orchestrator.formats.told_step import read_told_step

__all__ = [
    "COPIES",
    "CopyStore",
    "NoRoom",
    "Refused",
    "Wanted",
    "copied_hosts",
    "strategy_rank",
    "wanted_files",
]

COPIES = "copies"
_NAME = re.compile(r"(?:rank_\d{1,7}/)?[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", re.ASCII)
_STRATEGY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,150}_rank_(\d{1,7})\.ckpt", re.ASCII)
_LARGEST_STRATEGY = 1 << 30
_MARGIN = 256 << 20


class Refused(Exception):
    """What is offered is no shard of its owner's, or is not what was said; the text says why."""


class NoRoom(Exception):
    """The disk has no room for a copy."""


@dataclass(frozen=True)
class Wanted:
    """One file that is offered: a name below the owner's checkpoint, how long it is, its own checksum.

    The name of a strategy is one below the owner's `strategy`.
    """

    name: str
    size: int
    crc32: Optional[int] = None
    is_strategy: bool = False

    @property
    def path(self) -> str:
        """Where it is in the owner's folder."""
        return f"{'strategy' if self.is_strategy else 'checkpoint'}/{self.name}"


def strategy_rank(name: str) -> Optional[int]:
    """The rank whose strategy a file of this name is; None for any other."""
    match = _STRATEGY.fullmatch(name)
    return int(match[1]) if match else None


def wanted_files(message: Mapping[str, Any], ranks: Sequence[int]) -> Tuple[int, List[Wanted]]:
    """Step and files of an offer, each of one of the owner's ranks. Refused where that cannot be."""
    step, epoch, files = message.get("step"), message.get("epoch"), message.get("files")
    strategies = message.get("strategies", [])
    if type(step) is not int or type(epoch) is not int or not isinstance(files, list):
        raise Refused("an offer without step and files")
    if not isinstance(strategies, list) or max(len(files), len(strategies)) > len(ranks) or not files:
        raise Refused("more or fewer files than ranks")
    found = [_strategy(each, ranks) for each in strategies]
    found += [_wanted(each, step, epoch, ranks) for each in files]
    if len({each.path for each in found}) < len(found):
        raise Refused("a name twice")
    return step, found


def _wanted(data: Any, step: int, epoch: int, ranks: Sequence[int]) -> Wanted:
    if not isinstance(data, dict):
        raise Refused("a file that is none")
    name, size, crc32 = data.get("name"), data.get("size"), data.get("crc32")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Refused("a name that is no shard's")
    row = parse_name(f"/{name}")
    if not row or (row["step"], row["epoch"]) != (step, epoch) or row["rank"] not in ranks:
        raise Refused("a shard of another step, or rank")
    if type(size) is not int or not 0 < size < 1 << 50:
        raise Refused("a size that no shard has")
    if crc32 is not None and (type(crc32) is not int or not 0 <= crc32 < 1 << 32):
        raise Refused("a checksum that is none")
    return Wanted(name, size, crc32)


def _strategy(data: Any, ranks: Sequence[int]) -> Wanted:
    name, size = (data.get("name"), data.get("size")) if isinstance(data, dict) else (None, None)
    if not isinstance(name, str) or strategy_rank(name) not in ranks:
        raise Refused("a strategy of another rank")
    if type(size) is not int or not 0 < size <= _LARGEST_STRATEGY:
        raise Refused("a size that no strategy has")
    return Wanted(name, size, is_strategy=True)


def copied_hosts(run: RunDir, number: int) -> List[Tuple[str, Path]]:
    """The hosts of whose shards an attempt has copies here, each with the folder of them."""
    home = run.folder_of(number) / COPIES
    try:
        require_folder(home)
        names = sorted(name for name in os.listdir(home) if is_host_name(name))
    except OSError:
        return []
    return [(name, home / name / "checkpoint") for name in names if _is_folder(home / name)]


def _is_folder(path: Path) -> bool:
    try:
        require_folder(path)
    except OSError:
        return False
    return True


class CopyStore:
    """What one attempt's keeper has on its disk."""

    def __init__(
        self, run: RunDir, number: int, *, keep: int, ranks: Sequence[int], inside: bool = False
    ) -> None:
        """`ranks` are the host's own, whose next checkpoint must find room beside all copies. `inside`: which
        step a shard is of it says itself."""
        self._inside = inside
        self._run = run
        self._number = number
        self._keep = max(1, keep)
        self._ranks = ranks

    def require_room(self, size: int) -> None:
        """Raise NoRoom where a copy of so many bytes could be in the way of the host's own checkpoint."""
        found = os.statvfs(self._run.root)
        left = found.f_bavail * found.f_frsize - size
        if left < self._own_bytes() + _MARGIN:
            raise NoRoom("its disk has no room for copies beside its own next checkpoint")

    def _own_bytes(self) -> int:
        """What the host's own newest checkpoint takes."""
        folder = self._run.pinned(self._number).attempt.checkpoint
        with contextlib.suppress(CheckpointError):
            rows = self._rows(folder)
            newest = max((row["step"] for row in rows), default=0)
            return sum(row["identity"][0] for row in rows if row["step"] == newest)
        return 0

    def receive(self, owner: str, wanted: Wanted, pieces: Iterable[bytes]) -> Iterator[str]:
        """Write a file beside its place, and give the SHA-256 of what was written.

        Who asks for one more has it put in its place; who stops there has nothing written. Refused where its
        bytes are not those of its checksum, NoRoom, OSError.
        """
        folder = self._folder(owner, wanted.path)
        name = wanted.name.rpartition("/")[2]
        part = folder / f".{name}.{os.urandom(8).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(part, flags, 0o600)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                digest, crc = hashlib.sha256(), 0
                for piece in pieces:
                    _write_all(file, piece)
                    digest.update(piece)
                    crc = zlib.crc32(piece, crc)
                os.fsync(file.fileno())
            if wanted.crc32 is not None and crc != wanted.crc32:
                raise Refused("a file that is not what its checksum says")
            yield digest.hexdigest()
            if wanted.crc32 is not None:
                write_sum(folder / name, Sum(wanted.size, wanted.crc32))
            os.replace(part, folder / name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoRoom("its disk is full") from error
            raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()

    def _folder(self, owner: str, path: str) -> Path:
        """The folder of a file, made as far as it is not there. OSError where a link is in the way."""
        if not is_host_name(owner):
            raise Refused("no host's name")
        folder = self._run.folder_of(self._number)
        require_folder(folder)
        for part in (COPIES, owner, *path.split("/")[:-1]):
            folder = folder / part
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            require_folder(folder)
        return folder

    def prune(self, owners: Iterable[str]) -> None:
        """Remove what is kept no more: of each owner but the newest steps, counted over all attempts.

        The newest step that is complete over all hosts stays, and all after it; as long as nobody has told
        which that is, the newest two. Of hosts that are copied here no more nothing stays that is older.
        """
        told = read_told_step(self._run.root)
        current = set(owners)
        for host, steps in self._all().items():
            keep = self._keep if host in current else 0
            ordered = sorted(steps)
            limit = told if told is not None else (ordered[-2:] or [(0, 0)])[0]
            if host not in current and (told is None or told[0] != self._number):
                continue
            for at in ordered[: max(0, len(ordered) - keep)]:
                if at < limit:
                    _remove(steps[at])

    def _rows(self, folder: Path) -> List[Row]:
        rows = list_shards(str(folder), follow_links=False, with_steps=self._inside)
        for row in rows if self._inside else ():
            row["step"] = row["step"] if row["global_step"] is None else row["global_step"]
        return rows

    def _all(self) -> Dict[str, Dict[Tuple[int, int], List[Path]]]:
        """By host, and by (attempt, step), the files of all attempts."""
        found: Dict[str, Dict[Tuple[int, int], List[Path]]] = {}
        for number in self._run.numbers():
            for host, folder in copied_hosts(self._run, number):
                try:
                    rows = self._rows(folder)
                except CheckpointError:
                    continue
                for row in rows:
                    steps = found.setdefault(host, {})
                    steps.setdefault((number, row["step"]), []).append(Path(row["path"]))
        return found


def _write_all(file: Any, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[file.write(left) :]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        for each in (path, sum_path(path)):
            with contextlib.suppress(OSError):
                each.unlink()
