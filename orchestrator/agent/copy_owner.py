"""The owner's side of the copies: which step goes to the keeper next, and its way there.

What is copied is the newest step of which every rank of this host that saves has a whole shard. A copy that
is slower than the saves skips steps; it is never more than one behind that has been begun.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from orchestrator.agent.copy_network import connected, ports_in_turn
from orchestrator.agent.copy_store import Wanted, strategy_rank
from orchestrator.agent.copy_stream import CHUNK, Broken, Stream
from orchestrator.agent.copy_tls import Identity, WrongPeer
from orchestrator.agent.shard_ranges import Row, identity_of, list_shards, parse_name
from orchestrator.agent.steps_in_files import step_in_file
from orchestrator.core.copier_config import CopierConfig
from orchestrator.core.errors import CheckpointError
from orchestrator.core.paths import RunDir
from orchestrator.core.records import CopiedFile, CopyStatus
from orchestrator.core.safe_open import open_safely, require_folder, require_regular
from orchestrator.formats.shard_sum import Sum, read_sum

__all__ = ["NotCopied", "Owner", "SavedStep", "whole_steps"]

_CONNECT = 10.0
# For the keeper's disk to have a file of any size.
_SYNC = 600.0
# A shard without a checksum is whole once it has not changed for so long.
_SETTLED = 5.0
_SOME_TIME = 30.0
_LAST_WORDS = "/ttp_saved_checkpoints"
_STEPS_TOLD = 3


class NotCopied(Exception):
    """A step could not be copied; the text says why, for people."""


class SavedStep:
    """A step that this host has whole: of each rank its file."""

    __slots__ = ("at", "rows")

    def __init__(self, at: Tuple[int, int], rows: Sequence[Row]) -> None:
        """`at` is (epoch, step); the step is what the files say where that counts, and not their names."""
        self.at = at
        self.rows = rows

    @property
    def step(self) -> int:
        return self.at[1]

    @property
    def named(self) -> int:
        """The step in the names of its files."""
        return int(parse_name(self.rows[0]["path"])["step"])


def whole_steps(rows: Sequence[Row], is_whole: Callable[[Row], bool]) -> List[SavedStep]:
    """The steps, (epoch, step), that each rank of these rows has saved whole, the newest first."""
    ranks = sorted({row["rank"] for row in rows})
    steps: Dict[Tuple[int, int], Dict[int, Row]] = {}
    for row in rows:
        known = steps.setdefault((row["epoch"], row["step"]), {})
        if known.get(row["rank"], row)["rerun"] <= row["rerun"]:
            known[row["rank"]] = row
    whole = [at for at, found in steps.items() if len(found) == len(ranks)]
    return [
        SavedStep(at, [steps[at][rank] for rank in ranks])
        for at in sorted(whole, key=lambda at: (at[1], at[0]), reverse=True)
        if all(is_whole(row) for row in steps[at].values())
    ]


class Owner:
    """Copies the shards of this host's ranks, a step at a time."""

    def __init__(
        self,
        config: CopierConfig,
        run: RunDir,
        identity: Identity,
        *,
        stream: Callable[[socket.socket], Stream] = Stream,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        attempt = run.pinned(config.attempt.number).attempt
        self._folder, self._strategy = attempt.checkpoint, attempt.strategy
        # Strategies that the keeper has, as they were then.
        self._kept: Dict[str, Tuple[List[int], CopiedFile]] = {}
        self._identity = identity
        self._stream = stream
        self._now = now
        self._copied: Optional[Tuple[int, int]] = None
        self._saving: Set[int] = set()
        self._behind: Set[Tuple[int, int]] = set()
        self._files: List[CopiedFile] = []
        # What files say, which are read once.
        self._said: Dict[Tuple[Any, ...], int] = {}
        self._port: Optional[int] = None
        self._error = ""

    def status(self) -> CopyStatus:
        """How far the copies are."""
        step = None if self._copied is None else self._copied[1]
        files = [*(file for _, file in self._kept.values()), *self._files]
        return CopyStatus(step, len(self._behind), self._error, self._config.keeper, tuple(files))

    def next_step(self, *, is_last: bool = False) -> Optional[SavedStep]:
        """What is to be copied next; None where all is copied. Counts what the copy is behind.

        `is_last`: nobody writes any more, and what is there is whole.
        """
        try:
            rows = list_shards(str(self._folder), follow_links=False)
        except CheckpointError as error:
            self._error = _shown(error)
            return None
        own = [row for row in rows if row["rank"] in self._config.ranks and _LAST_WORDS not in row["path"]]
        if self._config.inside:
            own = self._by_what_they_say(own, is_last)
        saving = {row["rank"] for row in own}
        if self._saving < saving:
            self._copied, self._saving = None, saving  # ranks that had not saved anything by then
        # Not every rank of a program saves something; who does is known once the first save is some time ago.
        least = _SOME_TIME if len(saving) < len(self._config.ranks) else _SETTLED
        whole = whole_steps(own, lambda row: is_last or self._is_whole(row, least))
        done = (-1, -1) if self._copied is None else (self._copied[1], self._copied[0])
        newer = [step for step in whole if (step.at[1], step.at[0]) > done]
        self._behind.update(step.at for step in newer)
        return newer[0] if newer else None

    def _by_what_they_say(self, rows: Sequence[Row], is_last: bool) -> List[Row]:
        """The rows with the step that is in the file, without files that cannot be read to their end yet."""
        said: Dict[Tuple[Any, ...], int] = {}
        found = []
        for row in rows:
            key = (row["path"], *row["identity"])
            step = self._said.get(key)
            if step is None and (is_last or self._now() - row["identity"][1] / 1e9 > _SETTLED):
                step = step_in_file(row["path"])
            if step is not None:
                said[key] = step
                found.append({**row, "step": step})
        self._said = said
        return found

    def copy(self, step: SavedStep) -> None:
        """Have the keeper take it. NotCopied where that has come to nothing: another one may be next."""
        try:
            files = self._sent(step)
        except NotCopied as error:
            self._error = str(error)
            raise
        self._copied, self._error = step.at, ""
        newest = (step.at[1], step.at[0])
        self._behind = {at for at in self._behind if (at[1], at[0]) > newest}
        told = sorted({each.step for each in [*self._files, *files]})[-_STEPS_TOLD:]
        kept = [each for each in self._files if each.step in told and each.step != step.step]
        self._files = [*kept, *files]

    def say_bye(self) -> None:
        """Tell the keeper that nothing more comes. NotCopied."""
        with self._speaking() as stream:
            stream.say({"bye": True})
            stream.hear()

    def _is_whole(self, row: Row, least: float) -> bool:
        """Its checksum is there before it is; one without, or of few ranks, has not changed for so long."""
        try:
            found = read_sum(row["path"])
        except CheckpointError:
            return False
        if found is not None and (found.size != row["identity"][0] or least == _SETTLED):
            return bool(found.size == row["identity"][0])
        return bool(self._now() - row["identity"][1] / 1e9 > least)

    def _sent(self, step: SavedStep) -> List[CopiedFile]:
        with contextlib.ExitStack() as stack:
            # All of them at once: what is removed meanwhile, because newer ones are there, can still be read.
            opened = [self._opened(row, stack) for row in step.rows]
            strategies = [self._opened_strategy(path, stack) for path in self._new_strategies()]
            stream = stack.enter_context(self._speaking())
            offer = [{"name": each.name, "size": each.size, "crc32": each.crc32} for _, each in opened]
            beside = [{"name": each.name, "size": each.size} for _, each in strategies]
            stream.say({"step": step.named, "epoch": step.at[0], "files": offer, "strategies": beside})
            _require_ok(stream.hear())
            for handle, each in strategies:
                file = CopiedFile(each.path, 0, each.size, self._send(stream, handle, each.size))
                self._kept[each.name] = (identity_of(os.fstat(handle)), file)
            return [
                CopiedFile(each.name, step.step, each.size, self._send(stream, handle, each.size))
                for handle, each in opened
            ]

    def _new_strategies(self) -> List[Path]:
        """The files that say how this host's shards are cut, as far as the keeper has not these very ones."""
        found = []
        try:
            require_folder(self._strategy)
            for path in sorted(self._strategy.iterdir()):
                if strategy_rank(path.name) in self._config.ranks:
                    known = self._kept.get(path.name)
                    if known is None or known[0] != identity_of(require_regular(path)):
                        found.append(path)
        except OSError:
            return []
        return found[: len(self._config.ranks)]

    @staticmethod
    def _opened_strategy(path: Path, stack: contextlib.ExitStack) -> Tuple[int, Wanted]:
        try:
            handle = open_safely(path, path.parent)
        except OSError as error:
            raise NotCopied(f"{path.name} cannot be read: {_shown(error)}") from error
        stack.callback(os.close, handle)
        return handle, Wanted(path.name, os.fstat(handle).st_size, is_strategy=True)

    def _opened(self, row: Row, stack: contextlib.ExitStack) -> Tuple[int, Wanted]:
        path = Path(row["path"])
        try:
            own = read_sum(path)
            handle = open_safely(path, path.parent)
        except (OSError, CheckpointError) as error:
            raise NotCopied(f"{path.name} cannot be read: {_shown(error)}") from error
        stack.callback(os.close, handle)
        size = os.fstat(handle).st_size
        if own is not None and own != Sum(size, own.crc32):
            raise NotCopied(f"{path.name} is just being written")
        return handle, Wanted(os.path.relpath(path, self._folder), size, own.crc32 if own else None)

    @staticmethod
    def _send(stream: Stream, handle: int, size: int) -> str:
        digest = hashlib.sha256()

        def pieces() -> Iterator[bytes]:
            left = size
            while left:
                data = os.read(handle, min(left, CHUNK))
                if not data:
                    raise NotCopied("a shard has become shorter")
                left -= len(data)
                digest.update(data)
                yield data

        stream.send(pieces())
        found = digest.hexdigest()
        stream.send(iter([found.encode() + b"\n"]))
        _require_ok(stream.hear(_SYNC))
        return found

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[Stream]:
        """A connection to the keeper. NotCopied, also for what happens while it is used."""
        keeper = self._config.keeper
        try:
            secured = self._found()
            with contextlib.closing(secured):
                yield self._stream(secured)
        except (OSError, Broken) as error:
            raise NotCopied(f"{keeper}: {_shown(error)}") from error

    def _found(self) -> Any:
        """The keeper's port is one of a few, the first that was free there; another host's says who it is."""
        config = self._config
        turn = ports_in_turn(config.ports, config.run_id, config.keeper)
        if self._port is not None:
            turn = [self._port, *(port for port in turn if port != self._port)]
        trouble: Exception = OSError("no port is given")
        for port in turn:
            try:
                plain = connected(config.address, config.keeper_address, port, _CONNECT)
            except OSError as error:
                trouble = error
                continue
            try:
                secured = self._identity.reach(plain, config.keeper)
            except (WrongPeer, OSError) as error:
                trouble = error
                continue
            self._port = port
            return secured
        raise OSError(f"is not found at {config.keeper_address}: {_shown(trouble)}")


def _require_ok(answer: Dict[str, Any]) -> None:
    if answer.get("ok") is not True:
        raise Broken(str(answer.get("error", "no answer"))[:200])


def _shown(error: Exception) -> str:
    for name in ("what", "reason", "strerror"):
        text = getattr(error, name, None)
        if isinstance(text, str) and text:
            return text[:200]
    return (str(error) or type(error).__name__)[:200]
