"""How fast a collection may be.

Moves the segments of a plan from the hosts into the output, in parallel, and checks what arrives.

Carries out a plan whose shards and outputs are files of this machine.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from isal.isal_zlib import crc32

from orchestrator.checkpoint.atomic import mapped_errors
from orchestrator.checkpoint.copy_plan import Copy, CopyPlan
from orchestrator.checkpoint.files.tensor_files import FileLayout, lay_out_ckpt, lay_out_safetensors
from orchestrator.checkpoint.files.tensor_types import Spec
from orchestrator.checkpoint.journal import Done, Journal
from orchestrator.checkpoint.output import FreeSpace, OutputFiles, free_space, new_output
from orchestrator.checkpoint.segments import BATCH, Segment, batches
from orchestrator.checkpoint.shard_source import HostFiles
from orchestrator.checkpoint.spans import MappedFiles
from orchestrator.checkpoint.target import lay_out_file
from orchestrator.core.errors import CheckpointError, OrchestrateError, TransportError

__all__ = [
    "Format",
    "Limit",
    "Progress",
    "Transfer",
    "check_done",
    "copy_files",
    "file_sizes",
    "lay_out",
]


class Limit:
    """So many bytes a second, for all streams together; None is no limit."""

    def __init__(self, rate: int | None) -> None:
        self._rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def wait(self, nbytes: int, stop: threading.Event) -> None:
        """Return when so many bytes more are in order, or at once when `stop` is set."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + nbytes / self._rate
            pause = self._free_at - now
        stop.wait(pause)


# The same sum as zlib's, which the hosts make, at more than three times the speed.


Progress = Callable[[int, int], None]
"""Called with `(bytes done, bytes in all)`, from many threads but never twice at once."""

# Each stream holds a segment; with more of them than this, memory would grow with the number of hosts.
_MOST_STREAMS = 32
# So much is written before the disk is asked to take it.
_WRITE_BACK = 128 << 20


class _Stopped(Exception):
    """Another thread has failed; nothing to report from this one."""


class _Damaged(Exception):
    """A segment arrived other than it was sent."""


class Transfer:
    """One run over the segments that are not in the journal yet."""

    def __init__(
        self,
        source: HostFiles,
        segments: Sequence[Segment],
        output: OutputFiles,
        journal: Journal,
        *,
        progress: Progress | None = None,
        say: Callable[[str], None] = lambda text: None,
        streams_per_host: int = 2,
        limit: Limit | None = None,
        batch_bytes: int = BATCH,
    ) -> None:
        self._source = source
        self._output = output
        self._journal = journal
        self._progress = progress
        self._say = say
        self._streams = streams_per_host
        self._limit = limit or Limit(None)
        self._total = sum(segment.nbytes for segment in segments)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: OrchestrateError | None = None
        self.lost: dict[str, OrchestrateError] = {}
        waiting = [segment for segment in segments if segment.key not in journal.done]
        self._done = self._total - sum(segment.nbytes for segment in waiting)
        self._queues: dict[str, deque[list[Segment]]] = {}
        for batch in batches(waiting, output.layout.targets, batch_bytes):
            self._queues.setdefault(batch[0].read.host, deque()).append(batch)

    def execute(self) -> None:
        """All hosts at once, `streams_per_host` streams each.

        A host that breaks off twice at the same place is in `lost` then, and the others have gone on without
        it. CheckpointError, at once: a file changed or is shorter than its index said, bytes were damaged on
        the way twice, the disk is full.
        """
        self._count(0)
        streams = [
            host for n in range(self._streams) for host, queue in self._queues.items() if n < len(queue)
        ]
        if not streams:
            return
        with ThreadPoolExecutor(min(_MOST_STREAMS, len(streams)) + 1, thread_name_prefix="collect") as pool:
            try:
                flusher = _Flusher(self._output, self._stop)
                self._flusher = flusher
                pool.submit(flusher.run)
                for future in [pool.submit(self._work, host) for host in streams]:
                    future.result()
            except BaseException:
                self._stop.set()
                self._source.interrupt()
                raise
            finally:
                self._stop.set()
                flusher.wake()
        if self._error is not None:
            raise self._error

    def _work(self, host: str) -> None:
        try:
            while not self._stop.is_set() and (batch := self._next(host)):
                self._fetch(host, batch)
        except _Stopped:
            pass
        except TransportError as error:
            self._lose(host, error)
        except OrchestrateError as error:
            self._error = self._error or error
            self._stop.set()
        except BaseException:
            self._stop.set()
            raise

    def _next(self, host: str) -> list[Segment]:
        with self._lock:
            queue = self._queues[host]
            return queue.popleft() if queue and host not in self.lost else []

    def _lose(self, host: str, error: TransportError) -> None:
        with self._lock:
            first = host not in self.lost
            self.lost.setdefault(host, error)
        if first and not self._stop.is_set():
            self._say(f"{host} is lost: {error.what}")

    def _fetch(self, host: str, batch: Sequence[Segment]) -> None:
        waiting = deque(batch)
        suspect: Segment | None = None
        while waiting:
            try:
                self._stream(host, waiting)
            except (TransportError, _Damaged) as error:
                if self._stop.is_set():
                    raise _Stopped from None
                if waiting[0] is suspect and isinstance(error, _Damaged):
                    raise CheckpointError(
                        f"{host}: what arrives differs from what the host has, twice",
                        where=suspect.read.path,
                        remedy="is the memory or the network of that host sound?",
                    ) from None
                if waiting[0] is suspect:
                    raise
                suspect = waiting[0]

    def _stream(self, host: str, waiting: deque[Segment]) -> None:
        """Read until every waiting segment is in place; those that are leave the queue at once."""
        wanted = [(segment.read.path, segment.ranges) for segment in waiting]
        pieces = self._source.read(host, wanted)
        with _closing(pieces):
            for data, crc in pieces:
                if not waiting:
                    raise CheckpointError("more bytes came than were asked for", where=host)
                self._take(waiting[0], data, crc)
                waiting.popleft()
        if waiting:
            missing = sum(segment.nbytes for segment in waiting)
            raise TransportError(f"the stream ended {missing} bytes early", where=host)

    def _take(self, segment: Segment, data: memoryview, crc: int | None) -> None:
        if self._stop.is_set():
            raise _Stopped
        read = segment.read
        if len(data) != segment.nbytes:
            raise TransportError(f"{len(data)} of {segment.nbytes} bytes came", where=read.host)
        own = crc32(data)
        if crc is not None and crc != own:
            raise _Damaged
        written = self._output.put(read.tensor, read.region, segment.start, data)
        self._journal.add(
            segment.key, Done(segment.nbytes, own if written is data else crc32(written), read.rank)
        )
        self._flusher.note(segment.nbytes)
        self._count(segment.nbytes)
        self._limit.wait(segment.nbytes, self._stop)

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            if self._progress:
                self._progress(self._done, self._total)


class _Flusher:
    """Keeps the disk busy beside the transfer, so that the end does not wait for all of it."""

    def __init__(self, output: OutputFiles, stop: threading.Event) -> None:
        self._output = output
        self._stop = stop
        self._written = 0
        self._ready = threading.Event()

    def note(self, nbytes: int) -> None:
        self._written += nbytes  # roughly: a lost update delays a flush
        if self._written >= _WRITE_BACK:
            self._written = 0
            self._ready.set()

    def wake(self) -> None:
        self._ready.set()

    def run(self) -> None:
        while self._ready.wait() and not self._stop.is_set():
            self._ready.clear()
            # What goes wrong here goes wrong again where the output is finished, and is told there.
            with contextlib.suppress(CheckpointError):
                self._output.write_back()


def check_done(segments: Sequence[Segment], output: OutputFiles, journal: Journal) -> int:
    """Compare what the journal says is in place with what is there; returns the bytes that are.

    A machine that went down may have lost what it had not yet written. What differs is fetched again.
    """
    known = [segment for segment in segments if segment.key in journal.done]

    def is_there(segment: Segment) -> bool:
        crc = output.crc(segment.read.tensor, segment.read.region, segment.start, segment.nbytes)
        return Done(segment.nbytes, crc, journal.done[segment.key].rank) == journal.done[segment.key]

    with ThreadPoolExecutor(4, thread_name_prefix="check") as pool:
        verdicts = list(pool.map(is_there, known))
    kept = 0
    for segment, good in zip(known, verdicts, strict=True):
        if good:
            output.account(segment.read.tensor, segment.nbytes)
            kept += segment.nbytes
        else:
            journal.forget(segment.key)
    return kept


@contextlib.contextmanager
def _closing(pieces: Iterator[object]) -> Iterator[None]:
    try:
        yield
    finally:
        if hasattr(pieces, "close"):
            pieces.close()


Format = Literal["ckpt", "safetensors"]


def lay_out(format: Format, specs: Sequence[Spec]) -> FileLayout:
    """Where a file of this format has each tensor."""
    return lay_out_safetensors(specs) if format == "safetensors" else lay_out_ckpt(specs)


def file_sizes(plan: CopyPlan, format: Format) -> list[int]:
    """The size in bytes of each file of the plan."""
    return [lay_out(format, output.specs).size for output in plan.outputs]


def copy_files(
    plan: CopyPlan,
    paths: Sequence[Path],
    format: Format,
    *,
    progress: Progress | None = None,
    free: FreeSpace = free_space,
) -> None:
    """Write every output of the plan to its path, each file whole or not at all.

    One chunk is in memory at a time. `progress` gets `(bytes done, bytes in all)`. CheckpointError: a shard
    that has changed, no room for all files, cannot be written.
    """
    _check_space(plan, paths, format, free)
    copies: list[list[Copy]] = [[] for _ in plan.outputs]
    for copy in plan.copies:
        copies[copy.output].append(copy)
    done = 0
    with MappedFiles() as files:
        for output, path, mine in zip(plan.outputs, paths, copies, strict=True):
            with mapped_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            with new_output(path, lay_out_file(output.specs, format), free=free) as file:
                for copy in mine:
                    start = 0
                    for chunk in files.chunks(copy.path, copy.held, copy.part):
                        file.put(copy.tensor, copy.region, start, chunk)
                        start += len(chunk)
                        done += len(chunk)
                        if progress:
                            progress(done, plan.nbytes)


def _check_space(plan: CopyPlan, paths: Sequence[Path], format: Format, free: FreeSpace) -> None:
    folder = paths[0].parent
    while not folder.exists():
        folder = folder.parent
    need, have = sum(file_sizes(plan, format)), free(folder)
    if have < need:
        raise CheckpointError(
            f"needs {need / 1e9:.2f} GB and {folder} has {have / 1e9:.2f} GB free",
            where=str(paths[0] if len(paths) == 1 else folder),
            remedy="free some space or choose another folder",
        )
