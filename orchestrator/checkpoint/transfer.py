"""Moves the slices of a plan from the hosts into the output file, in parallel, and checks what arrives."""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from orchestrator.checkpoint.host_files import HostFiles, Ranges
from orchestrator.checkpoint.plan import CollectPlan, Read
from orchestrator.checkpoint.write import OutputFile, SliceWriter
from orchestrator.errors import CheckpointError, HostsFailed, OrchestrateError, TransportError

__all__ = ["Progress", "Transfer"]

Progress = Callable[[int, int], None]

# What is read again after an error, and what one request to a host asks for at most.
SEGMENT = 32 << 20
BATCH = 256 << 20


class _Stopped(Exception):
    """Another thread has failed; nothing to report from this one."""


class _Segment:
    """A part of a slice: what it takes to read, to place and to check it."""

    def __init__(self, read: Read, start: int, stop: int, writer: SliceWriter) -> None:
        self.size = stop - start
        self.ranges = _cut(read.pieces, start, stop)
        self.writer = writer
        self.crc = 0

    @property
    def left(self) -> int:
        return self.size - self.writer.received

    def rewind(self) -> int:
        """Forget what came so far; returns how much that was."""
        lost = self.writer.received
        self.writer.rewind()
        self.crc = 0
        return lost


def _cut(pieces: Ranges, start: int, stop: int) -> list[tuple[int, int]]:
    ranges = []
    for offset, length in pieces:
        first, last = max(start, 0), min(stop, length)
        if first < last:
            ranges.append((offset + first, last - first))
        start, stop = start - length, stop - length
    return ranges


class Transfer:
    """One run over a plan; `execute` returns when every byte is in the output and its checksum was right."""

    def __init__(
        self,
        source: HostFiles,
        plan: CollectPlan,
        output: OutputFile,
        *,
        progress: Progress | None = None,
        streams_per_host: int = 2,
        segment_bytes: int = SEGMENT,
        batch_bytes: int = BATCH,
    ) -> None:
        self._source = source
        self._output = output
        self._progress = progress
        self._streams = streams_per_host
        self._segment_bytes = segment_bytes
        self._batch_bytes = batch_bytes
        self._total = plan.nbytes
        self._done = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._errors: dict[str, OrchestrateError] = {}
        self._queues: dict[str, deque[tuple[str, list[Read]]]] = {}
        for host, path, reads in self._batches(plan.reads):
            self._queues.setdefault(host, deque()).append((path, reads))

    def _batches(self, reads: Sequence[Read]) -> Iterator[tuple[str, str, list[Read]]]:
        files: dict[tuple[str, str], list[Read]] = {}
        for read in reads:
            if read.nbytes:
                files.setdefault((read.host, read.path), []).append(read)
        for (host, path), slices in files.items():
            batch: list[Read] = []
            for read in sorted(slices, key=lambda read: read.pieces[0][0]):
                if batch and sum(one.nbytes for one in batch) + read.nbytes > self._batch_bytes:
                    yield host, path, batch
                    batch = []
                batch.append(read)
            yield host, path, batch

    def execute(self) -> None:
        """All hosts at once, `streams_per_host` streams each; the first error ends all of them.

        TransportError: a host broke off twice at the same place. CheckpointError: a file changed or is
        shorter than its index said, or the bytes were damaged on the way twice.
        """
        workers = [
            host for host, queue in self._queues.items() for _ in range(min(self._streams, len(queue)))
        ]
        if not workers:
            return
        with ThreadPoolExecutor(len(workers), thread_name_prefix="collect") as pool:
            try:
                for future in [pool.submit(self._work, host) for host in workers]:
                    future.result()
            finally:
                self._stop.set()
        if len(self._errors) > 1:
            raise HostsFailed(self._errors)
        for error in self._errors.values():
            raise error

    def _work(self, host: str) -> None:
        queue = self._queues[host]
        try:
            while not self._stop.is_set():
                with self._lock:
                    if not queue:
                        return
                    path, reads = queue.popleft()
                for segments in self._requests(reads):
                    self._fetch(host, path, segments)
        except _Stopped:
            pass
        except OrchestrateError as error:
            self._errors.setdefault(host, error)
            self._stop.set()
        except BaseException:
            self._stop.set()
            raise

    def _requests(self, reads: Sequence[Read]) -> Iterator[list[_Segment]]:
        """Segments of the slices, in groups of at most `batch_bytes`."""
        group: list[_Segment] = []
        for read in reads:
            for start in range(0, read.nbytes, self._segment_bytes):
                stop = min(start + self._segment_bytes, read.nbytes)
                if group and sum(one.size for one in group) + stop - start > self._batch_bytes:
                    yield group
                    group = []
                writer = self._output.slice(read.tensor, read.region, start)
                group.append(_Segment(read, start, stop, writer))
        yield group

    def _fetch(self, host: str, path: str, segments: list[_Segment]) -> None:
        self._receive(host, path, segments)
        damaged = self._damaged(host, path, segments)
        if damaged:
            for segment in damaged:
                self._count(-segment.rewind())
            self._receive(host, path, damaged)
            if self._damaged(host, path, damaged):
                raise CheckpointError(
                    f"{host}: what arrives differs from what the host has, twice",
                    where=path,
                    remedy="is the run still writing there?",
                )
        for segment in segments:
            segment.writer.done()

    def _receive(self, host: str, path: str, segments: Sequence[_Segment]) -> None:
        waiting = deque(segments)
        broken: _Segment | None = None
        while waiting:
            try:
                self._stream(host, path, waiting)
            except TransportError:
                if waiting[0] is broken:
                    raise
                broken = waiting[0]
                self._count(-broken.rewind())

    def _stream(self, host: str, path: str, waiting: deque[_Segment]) -> None:
        """Read until every waiting segment is complete; those that are leave the queue at once."""
        chunks = self._source.read(host, path, [part for segment in waiting for part in segment.ranges])
        with contextlib.ExitStack() as stack:
            if hasattr(chunks, "close"):
                stack.callback(chunks.close)
            for chunk in chunks:
                if self._stop.is_set():
                    raise _Stopped
                self._place(memoryview(chunk), waiting, path)
        if waiting:
            raise TransportError(f"the stream ended {sum(s.left for s in waiting)} bytes early", where=host)

    def _place(self, view: memoryview, waiting: deque[_Segment], path: str) -> None:
        while view:
            if not waiting:
                raise CheckpointError("more bytes came than were asked for", where=path)
            segment = waiting[0]
            part = view[: segment.left]
            segment.writer.write(part)
            segment.crc = zlib.crc32(part, segment.crc)
            view = view[len(part) :]
            if not segment.left:
                waiting.popleft()
            self._count(len(part))

    def _damaged(self, host: str, path: str, segments: Sequence[_Segment]) -> list[_Segment]:
        groups = [segment.ranges for segment in segments]
        try:
            sums = self._source.crc(host, path, groups)
        except TransportError:
            sums = self._source.crc(host, path, groups)
        if len(sums) != len(groups):
            raise CheckpointError(f"{host} gave {len(sums)} checksums for {len(groups)}", where=path)
        return [segment for segment, value in zip(segments, sums, strict=True) if segment.crc != value]

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            if self._progress:
                self._progress(self._done, self._total)
