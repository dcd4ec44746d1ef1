"""The bytes of a conversion: read, cut or joined by heads, turned, typed anew, written at their final place.

A few threads work through the tensors. Each holds one matrix that is to be transposed, or a chunk of any
other tensor, so memory is bounded by twice the largest matrix however large the model is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from model.weights.weights_output import WeightsOutput
from orchestrator.checkpoint.files.tensor_types import Spec, converted
from orchestrator.checkpoint.files.transpose import transpose
from orchestrator.checkpoint.shard_source import Held
from orchestrator.checkpoint.target import Target
from orchestrator.core.errors import CheckpointError

__all__ = ["CHUNK", "Job", "run_jobs", "stripes"]

_THREADS = 2
CHUNK = 2 << 20
STRIPE = 64 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor of Hugging Face's. Of one whose parts alternate (`heads` > 0) one side has several."""

    sources: tuple[Held, ...]
    targets: tuple[Target, ...]
    heads: int = 0
    transposed: bool = False

    @property
    def nbytes(self) -> int:
        return sum(source.spec.nbytes for source in self.sources)


def run_jobs(jobs: Sequence[Job], output: WeightsOutput, progress: Callable[[int, int], None]) -> None:
    """Do all jobs; `progress(done, total)` in bytes read. The first error ends the others and is raised."""
    worker = _Worker(output, progress, sum(job.nbytes for job in jobs))
    try:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="convert") as pool:
            futures = [pool.submit(worker.run, job) for job in jobs]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                worker.stop.set()
                pool.shutdown(cancel_futures=True)
        for future in done:
            future.result()
    finally:
        worker.close()


class _Stopped(Exception):
    """Another thread has failed."""


class _Worker:
    def __init__(self, output: WeightsOutput, progress: Callable[[int, int], None], total: int) -> None:
        self.stop = threading.Event()
        self._output, self._progress, self._total = output, progress, total
        self._done = 0
        self._lock = threading.Lock()
        self._descriptors: dict[str, int] = {}
        self._own = threading.local()

    def run(self, job: Job) -> None:
        try:
            if job.transposed:
                self._turn(job)
            elif job.heads and len(job.sources) == 1:
                self._split_heads(job)
            elif job.heads:
                self._join_heads(job)
            else:
                self._copy(job)
        except _Stopped:
            return

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)

    def _copy(self, job: Job) -> None:
        (source,), (target,) = job.sources, job.targets
        for start, stop in _chunks(source.spec.nbytes, 64):
            data = self._read(source, start, self._buffer(stop - start))
            self._write(target, source.spec.dtype, start, data)

    def _split_heads(self, job: Job) -> None:
        (source,), parts = job.sources, len(job.targets)
        run = source.spec.nbytes // job.heads // parts
        for start, stop in _chunks(job.heads * run, run):
            data = self._read(source, start * parts, self._buffer((stop - start) * parts))
            heads = np.frombuffer(data, np.uint8).reshape(-1, parts, run)
            for part, target in enumerate(job.targets):
                self._write(
                    target, source.spec.dtype, start, np.ascontiguousarray(heads[:, part]).data.cast("B")
                )

    def _join_heads(self, job: Job) -> None:
        (target, *_), dtype, count = job.targets, job.sources[0].spec.dtype, len(job.sources)
        run = job.sources[0].spec.nbytes // job.heads
        for start, stop in _chunks(job.heads * run, run):
            buffer = self._buffer((stop - start) * count)
            size = stop - start
            for part, source in enumerate(job.sources):
                self._read(source, start, buffer[part * size : (part + 1) * size])
            parts = np.frombuffer(buffer, np.uint8).reshape(count, -1, run)
            joined = np.ascontiguousarray(parts.swapaxes(0, 1)).data.cast("B")
            self._write(target, dtype, start * count, joined)

    def _turn(self, job: Job) -> None:
        (source,), (target,) = job.sources, job.targets
        rows, columns = source.spec.dims
        item = source.spec.item_size
        whole = self._buffer(source.spec.nbytes)
        for start, stop in _chunks(source.spec.nbytes, 64):
            self._read(source, start, whole[start:stop], count=False)
        matrix = np.frombuffer(whole, f"<u{item}").reshape(rows, columns)
        for first, last in stripes(rows * item, columns):
            stripe = np.empty((last - first, rows), matrix.dtype)
            transpose(matrix[:, first:last], stripe)
            self._write(target, source.spec.dtype, first * rows * item, stripe.data.cast("B"))
            self._count(stripe.nbytes)

    def _buffer(self, nbytes: int) -> memoryview:
        """Room for so many bytes, this thread's own and used again and again."""
        buffer: bytearray | None = getattr(self._own, "buffer", None)
        if buffer is None or len(buffer) < nbytes:
            self._own.buffer = None  # let the old one go first
            self._own.buffer = buffer = bytearray(nbytes)
        return memoryview(buffer)[:nbytes]

    def _read(self, tensor: Held, start: int, buffer: memoryview, *, count: bool = True) -> memoryview:
        """Fill the buffer with the tensor's bytes from `start` on."""
        if self.stop.is_set():
            raise _Stopped
        filled = 0
        try:
            for offset, length in tensor.pieces:
                while start < length and filled < len(buffer):
                    want = buffer[filled : filled + length - start]
                    got = os.preadv(self._descriptor(tensor.path), [want], offset + start)
                    if not got:
                        raise CheckpointError(f"ends inside {tensor.spec.name}", where=tensor.path)
                    filled, start = filled + got, start + got
                start = max(0, start - length)
        except OSError as error:
            raise CheckpointError(f"cannot be read: {error.strerror}", where=tensor.path) from error
        if count:
            self._count(filled)
        return buffer

    def _write(self, target: Target, dtype: str, offset: int, data: memoryview) -> None:
        before, after = _item_size(dtype), _item_size(target.dtype)
        for start, stop in _chunks(len(data), before):
            ready = converted(data[start:stop], dtype, target.dtype, target.source.name)
            self._output.put(target, (offset + start) // before * after, ready)

    def _descriptor(self, path: str) -> int:
        with self._lock:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptors[path]

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            self._progress(self._done, self._total)


def _item_size(dtype: str) -> int:
    return Spec("", (), dtype).item_size


def stripes(height: int, columns: int, limit: int = STRIPE) -> Iterator[tuple[int, int]]:
    """Spans of columns of `height` bytes each, of about `limit` bytes: what is turned at once."""
    width = max(1, limit // max(1, height))
    for first in range(0, columns, width):
        yield first, min(first + width, columns)


def _chunks(nbytes: int, unit: int) -> Iterator[tuple[int, int]]:
    """Spans of about `CHUNK` bytes, multiples of `unit` but for the last."""
    step = max(unit, CHUNK - CHUNK % unit)
    for start in range(0, nbytes, step):
        yield start, min(start + step, nbytes)
