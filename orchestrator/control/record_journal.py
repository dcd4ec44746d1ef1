"""The writer and the reader of a run's record on disk: a snapshot, and beside it the changes since.

    record.json      the snapshot: the whole record, with the name of the journal that goes on from it
    record.journal   a line for each change since (`record_changes`)

What somebody may act on, states, ends, the cause, a phase, is written at once. What only moves on, steps and
times, waits: on disk it is for who comes without a monitor, and who looks on asks the monitor. It waits, too,
while the rest of its host is written, but for a host on which a rank has failed. When the
journal has outgrown the snapshot a new snapshot is written; the old pair counts until it is whole. A journal
whose name is not that of the snapshot is of the one before it. When the run has ended, the snapshot is all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.control.record_changes import (
    change_line,
    differ,
    differences,
    differences_of,
    header_line,
    record_text,
)
from orchestrator.control.run_record import HostView, RunRecord, read_record
from orchestrator.core.codec import to_json
from orchestrator.core.paths import ControlDir, replacing
from orchestrator.core.safe_open import open_safely
from orchestrator.core.states import RankState

__all__ = ["RecordReader", "RecordWriter"]

log = logging.getLogger(__name__)

# What moves on by itself: fields of any part of a record.
_SLOW = frozenset({"watched", "updated", "last_contact", "silent", "clock", "progress", "spent"})
_TOP = tuple(field.name for field in dataclasses.fields(RunRecord) if field.name != "hosts")
# Without news the record says after so many seconds that it is watched, and how far the ranks are.
_EVERY = 10.0
# So many hosts' progress a second, at most.
_HOSTS_A_SECOND = 25.0
# A journal is not worth a new snapshot before it has so many bytes, nor before so many times the snapshot's.
_LEAST = 1 << 16
_TIMES = 2
# After a snapshot for which there was no room.
_PAUSE = 30.0


class RecordWriter:
    """Writes the record of one run; for the one process that watches it.

    `every` is after how many seconds what only moves on is written, `clock` tells them.
    """

    def __init__(
        self, control: ControlDir, *, every: float = _EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.every = every
        self._control = control
        self._clock = clock
        # What is on disk; nothing of which this writer knows, at first.
        self._top: RunRecord | None = None
        self._hosts: dict[str, HostView] = {}
        self._slow: dict[str, HostView] = {}  # the same, of which on disk is what only moves on
        self._seen: Mapping[str, HostView] = {}
        self._moved: dict[str, bool] = {}  # hosts that differ from what is on disk: whether it is urgent
        self._due = self._hosts_due = self._compact_due = 0.0
        self._snapshot = self._journal = ""
        self._identity: tuple[int, int] | None = None
        self._file: int | None = None
        self._size = self._sequence = 0
        # The largest snapshot: one that is written when an attempt begins says next to nothing of its hosts,
        # and there would be two more before they have said what they have to say.
        self._largest = 0

    def save(self, record: RunRecord) -> None:
        """Write what has changed and cannot wait. Raises OSError, and a later call writes that as well."""
        now = self._clock()
        top = self._top
        if top is None or not self._is_ours() or self._has_other_hosts(record):
            self._write_snapshot(record, now)
            return
        self._note_hosts(record.hosts)
        is_due = now >= self._due and not record.state.is_terminal
        names = [name for name, urgent in self._moved.items() if urgent]
        if not names and not is_due and not self._has_news(top, record):
            return
        if record.state.is_terminal:
            self._write_snapshot(record, now)
            return
        is_hosts_due = is_due and now >= self._hosts_due
        self._append(top, record, list(self._moved) if is_hosts_due else names, slow=is_hosts_due)
        self._top = record
        if is_due:
            self._due = now + self.every
        if is_hosts_due:
            self._hosts_due = now + max(self.every, len(record.hosts) / _HOSTS_A_SECOND)
        if self._size > max(_LEAST, _TIMES * self._largest) and now >= self._compact_due:
            try:
                self._write_snapshot(record, now)
            except OSError as error:
                # What was there before goes on to be true, and the journal goes on from it.
                log.warning("no room for a new snapshot of the record: %s", error)
                self._compact_due = now + _PAUSE

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._size = self._sequence = 0

    def _note_hosts(self, hosts: Mapping[str, HostView]) -> None:
        """Which hosts have something to be written; those that are the same objects cost a comparison."""
        if hosts is self._seen:
            return
        seen, written = self._seen, self._hosts
        for name, view in hosts.items():
            if seen.get(name) is not view and written[name] is not view:
                is_urgent = self._moved.get(name, False) or differ(written[name], view, _SLOW)
                self._moved[name] = is_urgent
        self._seen = hosts

    def _has_news(self, before: RunRecord, after: RunRecord) -> bool:
        return any(
            differ(getattr(before, name), getattr(after, name), _SLOW) for name in _TOP if name not in _SLOW
        )

    def _append(self, top: RunRecord, record: RunRecord, names: list[str], *, slow: bool) -> None:
        """Write down what is new of these hosts, with what only moves on where `slow` says so."""
        changes: list[Any] = []
        for name in _TOP:
            changes += differences(getattr(top, name), getattr(record, name), (name,))
        whole = {name for name in names if slow or self._is_whole(name, record.hosts[name])}
        for name in names:
            written, moved, view = self._hosts[name], self._slow[name], record.hosts[name]
            if name not in whole:
                changes += differences(written, view, ("hosts", name), _SLOW)
            elif written is moved:
                changes += differences(written, view, ("hosts", name))
            else:
                changes += differences(written, view, ("hosts", name), _SLOW)
                changes += differences_of(moved, view, ("hosts", name), _SLOW)
        if changes:
            self._write_changes(changes)
        self._hosts.update((name, record.hosts[name]) for name in names)
        self._slow.update((name, record.hosts[name]) for name in whole)
        self._moved.update(dict.fromkeys(names, False))
        for name in whole:
            del self._moved[name]

    def _is_whole(self, name: str, view: HostView) -> bool:
        """Whether all of a host is written with what cannot wait: what it says first, and once a rank has
        failed there, as how far that had come is part of what is known of it."""
        is_first = self._slow[name].status is None
        return is_first or any(rank.state is RankState.FAILED for rank in view.ranks())

    def _write_changes(self, changes: list[Any]) -> None:
        file = self._begin_journal() if self._file is None else self._file
        line = change_line(self._sequence + 1, changes)
        if os.fstat(file).st_size != self._size:  # a write that broke off
            os.ftruncate(file, self._size)
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(file, left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(file, self._size)
            error.filename = str(self._control.journal)
            raise
        # At once: a signal between the two would make the next line one of a wrong number.
        self._size, self._sequence = self._size + len(line), self._sequence + 1

    def _begin_journal(self) -> int:
        header = header_line(self._snapshot)
        with replacing(self._control.journal) as file:
            file.write(header)
        flags = os.O_WRONLY | os.O_APPEND
        self._file = open_safely(self._control.journal, self._control.runs, flags)
        self._size = len(header)
        return self._file

    def _write_snapshot(self, record: RunRecord, now: float) -> None:
        name = "" if record.state.is_terminal else secrets.token_hex(8)
        # The state of a run that has ended is looked for at the beginning of the file.
        data = {"format": record.FORMAT, "journal": name, **to_json(record)}
        text = record_text(data)
        with replacing(self._control.record) as file:
            file.write(text)
            if self._file is not None:
                # Else after a power failure there might be neither this nor what it takes the place of.
                file.flush()
                os.fsync(file.fileno())
        self.close()
        self._identity = _identity_of(self._control)
        self._snapshot, self._largest = name, max(self._largest, len(text))
        self._top, self._hosts, self._seen = record, dict(record.hosts), record.hosts
        self._slow = dict(record.hosts)
        self._moved.clear()
        self._due = now + self.every
        self._hosts_due = now + max(self.every, len(record.hosts) / _HOSTS_A_SECOND)
        self._control.journal.unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        """Whether what is on disk is what this writer wrote; another may have, who found no monitor."""
        if self._file is not None:
            found = os.fstat(self._file)
            if not found.st_nlink or found.st_size < self._size:
                return False  # removed, or cut: what is written behind a gap counts for nothing
        return _identity_of(self._control) == self._identity

    def _has_other_hosts(self, record: RunRecord) -> bool:
        return record.hosts is not self._seen and record.hosts.keys() != self._hosts.keys()


def _identity_of(control: ControlDir) -> tuple[int, int] | None:
    try:
        found = os.lstat(control.record)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class RecordReader:
    """Reads a record again and again, and only where its files have changed meanwhile."""

    def __init__(self, control: ControlDir) -> None:
        self._control = control
        self._found: tuple[object, RunRecord] | None = None

    def newest(self) -> RunRecord:
        """The record on disk. Raises RunNotFound as `read_record` does."""
        now = (_look(self._control.record), _look(self._control.journal))
        if self._found is None or self._found[0] != now:
            self._found = (now, read_record(self._control))
        return self._found[1]


def _look(path: os.PathLike[str]) -> tuple[int, ...]:
    try:
        found = os.lstat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
