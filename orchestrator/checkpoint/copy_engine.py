"""The copy engine: carries out a plan, into files whose bytes come from any hosts, or as a stream of bytes.

Segments are read from all hosts at once, checked where the host says what they should be, brought into the
form that their destination wants and written at their final place.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from orchestrator.checkpoint.companion_files import require_same_names
from orchestrator.checkpoint.copy_options import CopyOptions, RateLimit, Report
from orchestrator.checkpoint.copy_plan import Copy, CopyPlan, Segment, batches, cut_segments
from orchestrator.checkpoint.host_files import CHUNK, HostFiles, LocalFiles, MappedFiles
from orchestrator.checkpoint.journal import Done, Journal
from orchestrator.checkpoint.output_layout import OutputLayout
from orchestrator.checkpoint.output_writer import OutputFiles, new_output
from orchestrator.core.errors import CheckpointError, OrchestrateError, TransportError

try:
    # The same sum as zlib's, which the hosts make, at more than three times the speed.
    from isal.isal_zlib import crc32
except ImportError:  # in workers, which convert and need no sums
    from zlib import crc32

__all__ = ["StreamedFile", "check_done", "copy_files", "copy_segments", "crc32"]

# Each stream holds a segment; with more of them than this, memory would grow with the number of hosts.
_MOST_STREAMS = 32
# So much is written before the disk is asked to take it.
_WRITE_BACK = 128 << 20
# A matrix of this machine that is to be transposed is taken in stripes of about so many bytes: measured; in
# larger ones every page of the buffers is a new one.
_STRIPE = 16 << 20
# Streams of this machine take turns after so many bytes: they end at about the same time.
_LOCAL_BATCH = 16 << 20


def copy_files(
    plan: CopyPlan,
    path: Path,
    layout: OutputLayout,
    options: CopyOptions | None = None,
    report: Report | None = None,
) -> None:
    """Carry out a plan whose shards are files of this machine; the output appears whole or not at all.

    Memory is a few segments, or stripes of what is transposed. CheckpointError: a shard that has changed, no
    room for all files, an output that cannot be written, or is there and no file of the same tensors.
    """
    if not layout.is_folder:
        require_same_names(path, [destination.source.name for destination in layout.destinations])
    options = replace(options or CopyOptions(), batch_bytes=_LOCAL_BATCH)
    with new_output(path, layout, options) as output:
        segments = cut_segments(plan, layout.destinations, options.segment_bytes, stripe=_STRIPE)
        copy_segments(LocalFiles(), segments, output, options, report or Report())


def copy_segments(
    source: HostFiles,
    segments: Sequence[Segment],
    output: OutputFiles,
    options: CopyOptions,
    report: Report,
    journal: Journal | None = None,
) -> dict[str, OrchestrateError]:
    """Bring the segments that are not in the journal yet, from all hosts at once; returns the lost hosts.

    A host that breaks off twice at the same place is lost, and the others have gone on without it.
    CheckpointError, at once: a file changed or is shorter than its index said, bytes were damaged on the way
    twice, the disk is full.
    """
    copy = _SegmentCopy(source, segments, output, options, report, journal)
    copy.execute()
    return copy.lost


class _Stopped(Exception):
    """Another thread has failed; nothing to report from this one."""


class _Damaged(Exception):
    """A segment arrived other than it was sent."""


class _SegmentCopy:
    """One run over the segments that are not in the journal yet."""

    def __init__(
        self,
        source: HostFiles,
        segments: Sequence[Segment],
        output: OutputFiles,
        options: CopyOptions,
        report: Report,
        journal: Journal | None,
    ) -> None:
        self._source = source
        self._output = output
        self._journal = journal
        self._report = report
        self._streams = options.streams_per_host
        self._limit = RateLimit(options.rate)
        self._total = sum(segment.nbytes for segment in segments)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._error: OrchestrateError | None = None
        self._flusher = _Flusher(output, self._stop)
        self.lost: dict[str, OrchestrateError] = {}
        waiting = [segment for segment in segments if not journal or segment.key not in journal.done]
        self._done = self._total - sum(segment.nbytes for segment in waiting)
        self._queues: dict[str, deque[list[Segment]]] = {}
        for batch in batches(waiting, output.layout.destinations, options.batch_bytes):
            self._queues.setdefault(batch[0].copy.host, deque()).append(batch)

    def execute(self) -> None:
        self._count(0)
        streams = [
            host for n in range(self._streams) for host, queue in self._queues.items() if n < len(queue)
        ]
        if not streams:
            return
        with ThreadPoolExecutor(min(_MOST_STREAMS, len(streams)) + 1, thread_name_prefix="copy") as pool:
            try:
                pool.submit(self._flusher.run)
                for future in [pool.submit(self._work, host) for host in streams]:
                    future.result()
            except BaseException:
                self._stop.set()
                self._source.interrupt()
                raise
            finally:
                self._stop.set()
                self._flusher.wake()
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
            self._report.say(f"{host} is lost: {error.what}")

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
                        where=suspect.copy.path,
                        remedy="is the memory or the network of that host sound?",
                    ) from None
                if waiting[0] is suspect:
                    raise
                suspect = waiting[0]

    def _stream(self, host: str, waiting: deque[Segment]) -> None:
        """Read until every waiting segment is in place; those that are leave the queue at once."""
        pieces = self._source.read(host, tuple(waiting))
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
        copy = segment.copy
        if len(data) != segment.nbytes:
            raise TransportError(f"{len(data)} of {segment.nbytes} bytes came", where=copy.host)
        own = crc32(data) if self._journal or crc is not None else 0
        if crc is not None and crc != own:
            raise _Damaged
        written = self._output.put(copy.tensor, copy.region, segment.start, data)
        if self._journal:
            done = Done(segment.nbytes, own if written is data else crc32(written), copy.rank)
            self._journal.add(segment.key, done)
        self._flusher.note(segment.nbytes)
        self._count(segment.nbytes)
        self._limit.wait(segment.nbytes, self._stop)

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            self._report.progress(self._done, self._total)


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
        crc = output.crc(segment.copy.tensor, segment.copy.region, segment.start, segment.nbytes)
        return Done(segment.nbytes, crc, journal.done[segment.key].rank) == journal.done[segment.key]

    with ThreadPoolExecutor(4, thread_name_prefix="check") as pool:
        verdicts = list(pool.map(is_there, known))
    kept = 0
    for segment, good in zip(known, verdicts, strict=True):
        if good:
            output.account(segment.copy.tensor, segment.nbytes)
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


class StreamedFile:
    """File number `number` of a plan whose source is one checkpoint of whole tensors, as a stream.

    Each iteration yields the file from its beginning, without it being written anywhere. CheckpointError: a
    tensor that is made of several parts, which only a file that is written can be; and while iterating, a
    source that has changed.
    """

    def __init__(self, plan: CopyPlan, layout: OutputLayout, number: int) -> None:
        self._layout = layout.files[number][1]
        self._copies: dict[int, Copy] = {}
        for copy in plan.copies:
            if layout.destinations[copy.tensor].file != number:
                continue
            if copy.tensor in self._copies:
                raise CheckpointError(f"{copy.stored.spec.name} is made of several parts", where=copy.path)
            self._copies[copy.tensor] = copy

    def __len__(self) -> int:
        return self._layout.size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        # Frames and spans of tensors alternate in the file; a tensor's spans follow each other.
        frames = dict(self._layout.frames)
        position = 0
        with MappedFiles() as files:
            for tensor, spans in zip(sorted(self._copies), self._layout.spans, strict=True):
                copy = self._copies[tensor]
                data = files.chunks(copy.path, copy.stored, copy.part, CHUNK)
                rest = memoryview(b"")
                for offset, length in spans:
                    if position in frames:
                        yield frames[position]
                        position += len(frames[position])
                    if position != offset:
                        raise AssertionError(f"the layout leaves a gap at byte {position}")
                    position += length
                    while length:
                        rest = rest or next(data)
                        part, rest = rest[:length], rest[length:]
                        length -= len(part)
                        yield part
