"""Preparation of a data set: records are tokenized and packed in parallel and written as MindRecord files.

This process reads and deals out; encoders turn chunks of records into sequences, in order; writers,
one process a file, fill rows up and write them. The output is the same for any number of encoders.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.data.encode_records import (
    Encoded,
    Encoder,
    as_row,
    encode_chunk,
    encoder_processes,
    in_order,
    processes,
    result_of,
)
from model.data.records import Document, Item, RecordError, Unread, format_of, stream_records
from model.data.tokenizer import read_tokenizer
from model.errors import ModelError
from orchestrator.checkpoint.atomic import sync_folder
from orchestrator.formats.tokenizer_files import SUMMARY, TOKENIZER, sha256_of, summary_text

if TYPE_CHECKING:
    from model.data.mindrecord import RowWriter

__all__ = [
    "Packer",
    "Progress",
    "Request",
    "Shards",
    "Summary",
    "prepare",
]

OPEN_ROWS = 64


class Packer:
    """Best fit: each sequence goes to the open row that it leaves least room in.

    A sequence is never cut apart here; it must not be longer than a row. Rows come out without padding.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self._open: list[tuple[int, list[NDArray[Any]]]] = []  # (room left, what is in it)

    def add(self, sequence: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Take one sequence in; gives the row that had to be closed for it, if any."""
        fitting = [index for index, (room, _) in enumerate(self._open) if room >= len(sequence)]
        if fitting:
            best = min(fitting, key=lambda index: self._open[index][0])
            room, held = self._open[best]
            held.append(sequence)
            self._open[best] = (room - len(sequence), held)
            if room == len(sequence):
                yield self._close(best)
            return
        if len(self._open) == OPEN_ROWS:
            yield self._close(min(range(OPEN_ROWS), key=lambda index: self._open[index][0]))
        self._open.append((self.length - len(sequence), [sequence]))

    def rest(self) -> Iterator[NDArray[Any]]:
        """The rows that are still open."""
        while self._open:
            yield self._close(0)

    def _close(self, index: int) -> NDArray[Any]:
        _, held = self._open.pop(index)
        return np.concatenate(held)


# How far the encoders may be ahead of a writer: it also takes seconds to start.
BLOCKS_AHEAD = 32


class Shards:
    """The files of one data set. Blocks of rows go to them in turn, so that they come out equally long."""

    def __init__(self, paths: Sequence[Path], length: int, eos: int, workers: int) -> None:
        self._row = (length, eos)
        self._stack = contextlib.ExitStack()
        self._writers: list[tuple[Executor, str]] = []
        for path in paths:
            executor = self._stack.enter_context(processes(min(1, workers), _nothing, ()))
            self._writers.append((executor, str(path)))
        self._turns = itertools.cycle(self._writers)
        # At once, because MindSpore takes seconds to import.
        self._waiting: deque[Future[Any]] = deque(
            executor.submit(_open, path) for executor, path in self._writers
        )

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *exception: object) -> None:
        for executor, _ in self._writers:
            executor.shutdown(wait=False, cancel_futures=True)
        self._stack.close()

    def write(self, sequences: Sequence[NDArray[Any]]) -> None:
        """Append rows to the file whose turn it is; waits where the writers do not keep up."""
        executor, path = next(self._turns)
        # Unfilled, as they are a fraction of the rows on their way to the other process.
        flat, lengths = np.concatenate(sequences), [len(sequence) for sequence in sequences]
        self._waiting.append(executor.submit(_write, path, flat, lengths, self._row))
        while len(self._waiting) > BLOCKS_AHEAD * len(self._writers):
            result_of(self._waiting.popleft())

    def commit(self) -> list[int]:
        """Finish every file; gives their numbers of rows."""
        ends = [executor.submit(_commit, path) for executor, path in self._writers]
        for future in self._waiting:
            result_of(future)
        return [result_of(future) for future in ends]


_writers: dict[str, RowWriter] = {}  # of this process


def _nothing() -> None:
    pass


def _open(path: str) -> None:
    # Late: this module is also imported where nothing is written, and MindSpore takes seconds.
    from model.data.mindrecord import RowWriter

    _writers[path] = RowWriter(Path(path))


def _write(path: str, flat: NDArray[Any], lengths: list[int], row: tuple[int, int]) -> None:
    sequences = np.split(flat, np.cumsum(lengths)[:-1])
    _writers[path].write(np.stack([as_row(sequence, *row) for sequence in sequences]))


def _commit(path: str) -> int:
    writer = _writers.pop(path)
    if writer.rows:
        writer.commit()
    return writer.rows


CHUNK_RECORDS = 256
CHUNK_CHARACTERS = 1 << 20
ROWS_A_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be prepared; `length` counts the ids of a row, one more than a model's seq_length."""

    input: Path
    output: Path  # a folder, or a .mindrecord file
    tokenizer: Path
    length: int = 2049
    limit: int | None = None
    kind: str | None = None  # of records.FORMATS; None: what the file looks like
    template: str | None = None  # None: belle for JSON lines, else alpaca
    whole: bool = False
    pack: bool = False
    shards: int = 1
    workers: int = 1
    strict: bool = False
    overwrite: bool = False

    def check(self) -> None:
        """Raise ModelError naming every value that makes no sense."""
        wrong = [f"{key} must be at least 1" for key in ("shards",) if getattr(self, key) < 1]
        if self.length < 2:
            wrong.append(f"seq_length must be at least 2, not {self.length}")
        if self.workers < 0:
            wrong.append("workers must not be below 0")
        if self.limit is not None and self.limit < 1:
            wrong.append(f"N must be at least 1, or -1 for all, not {self.limit}")
        if wrong:
            raise ModelError("; ".join(wrong), where="prepare-data")


@dataclass(slots=True)
class Summary:
    """What came of it. `padding` is the part of all ids that is; lengths are in ids, with the eos."""

    records: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)  # their prompt fills a row
    cut: int = 0  # longer than a row
    tokens: int = 0
    rows: int = 0
    longest: int = 0
    seconds: float = 0.0
    padding: float = 0.0
    unread: str = ""  # the keys of records that nobody reads
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of the input has been read, in bytes and records."""

    done: int
    total: int
    records: int


def prepare(request: Request, report: Callable[[Progress], None] = lambda progress: None) -> Summary:
    """Do it all. The files appear under their names when all of them are whole, with tokenizer.json beside.

    Raises ModelError for an input that cannot be used, with `strict` for the first bad record.
    """
    request.check()
    started, summary = time.monotonic(), Summary()
    tokenizer = read_tokenizer(request.tokenizer)
    kind = request.kind or format_of(request.input)
    folder, names = _names(request)
    _refuse_existing(request, folder, names)
    unread = Unread()
    opened = stream_records(request.input, kind, unread)
    with _part_folder(folder) as part, opened as (values, descriptor):
        paths = [part / name for name in names]
        template = request.template or ("belle" if kind == "jsonl" else "alpaca")
        encoder = Encoder(tokenizer, template, request.whole, request.length, splits=request.pack)
        encoders = encoder_processes(encoder, request.workers)
        with encoders, Shards(paths, request.length, tokenizer.eos, request.workers) as shards:
            chunks = _chunks(values, request.limit)
            encoded = in_order(encoders, encode_chunk, chunks, ahead=4 * max(1, request.workers))
            for block in _blocks(_sequences(encoded, request, summary, descriptor, report), request):
                shards.write(block)
            rows = shards.commit()
        _check_result(request, summary, rows)
        # To the byte: its hash is that of the file that belongs to the model.
        shutil.copyfile(request.tokenizer, part / TOKENIZER)
        told = {"template": template, "ids_a_row": request.length, "records": summary.records}
        for name, count in zip(names, rows, strict=True):
            text = summary_text(part / TOKENIZER, **told, rows=count)
            (part / f"{name}{SUMMARY}").write_text(text, encoding="utf-8")
        summary.files = _place(part, folder, names)
    summary.rows, summary.unread = sum(rows), unread.words()
    summary.padding = 1 - summary.tokens / (summary.rows * request.length)
    summary.seconds = time.monotonic() - started
    return summary


def _names(request: Request) -> tuple[Path, list[str]]:
    if request.output.suffix == ".mindrecord":
        folder, stem = request.output.parent, request.output.stem
    else:
        folder, stem = request.output, "dataset"
    if request.shards == 1:
        return folder, [f"{stem}.mindrecord"]
    count = request.shards
    return folder, [f"{stem}-{index:05}-of-{count:05}.mindrecord" for index in range(count)]


def _refuse_existing(request: Request, folder: Path, names: list[str]) -> None:
    for name in names:
        if (folder / name).exists() and not request.overwrite:
            raise ModelError("is there already", where=str(folder / name), remedy="see --overwrite")
    theirs = folder / TOKENIZER
    others = [path for path in folder.glob("*.mindrecord") if path.name not in names]
    if not theirs.is_file() or (request.overwrite and not others):
        return
    if sha256_of(theirs) != sha256_of(request.tokenizer):
        whose = f", and {others[0].name} may have been made with it" if others else ""
        what = f"is there already and is another tokenizer than {request.tokenizer}{whose}"
        remedy = "choose another folder" if others else "choose another folder, or see --overwrite"
        raise ModelError(what, where=str(theirs), remedy=remedy)


@contextlib.contextmanager
def _part_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the output that is gone afterwards; what is whole is moved out of it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".prepare-", suffix=".part", dir=folder))
    except OSError as error:
        raise ModelError(f"cannot be written: {error.strerror}", where=str(folder)) from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _place(part: Path, folder: Path, names: list[str]) -> tuple[Path, ...]:
    """Move the files out. A .mindrecord comes last and goes first: it is what readers look for."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    data = [file for name in names for file in (f"{name}{SUMMARY}", f"{name}.db", name)]
    for name in (TOKENIZER, *data):
        with (part / name).open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part / name, folder / name)
    sync_folder(folder)
    return tuple(folder / name for name in names)


def _check_result(request: Request, summary: Summary, rows: list[int]) -> None:
    if not sum(rows):
        raise ModelError(
            f"none of its {summary.records} records could be used",
            where=str(request.input),
            remedy=f"record {summary.bad[0][0]} {summary.bad[0][1]}" if summary.bad else "raise --seq_length",
        )
    if not all(rows):
        raise ModelError(
            f"{sum(rows)} rows are too few for {len(rows)} files of {ROWS_A_BLOCK} rows each",
            where=str(request.input),
            remedy="lower --shards",
        )


def _chunks(values: Iterable[Item | RecordError], limit: int | None) -> Iterator[list[Item | RecordError]]:
    chunk: list[Item | RecordError] = []
    characters = 0
    for value in itertools.islice(values, limit):
        chunk.append(value)
        if isinstance(value, Document):
            characters += len(value.text)
        elif not isinstance(value, RecordError):
            characters += len(value.instruction) + len(value.input) + len(value.output)
        if len(chunk) == CHUNK_RECORDS or characters > CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _sequences(
    encoded: Iterable[Encoded],
    request: Request,
    summary: Summary,
    descriptor: int,
    report: Callable[[Progress], None],
) -> Iterator[NDArray[Any]]:
    size = os.fstat(descriptor).st_size
    for part in encoded:
        first = summary.records
        if part.bad and request.strict:
            index, why = part.bad[0]
            raise ModelError(why, where=f"{request.input}: record {first + index}")
        summary.records += part.records
        summary.bad += [(first + index, why) for index, why in part.bad]
        summary.skipped += [first + index for index in part.skipped]
        summary.cut += part.cut
        summary.longest = max(summary.longest, part.longest)
        summary.tokens += sum(map(len, part.sequences))
        report(Progress(os.lseek(descriptor, 0, os.SEEK_CUR), size, summary.records))
        yield from part.sequences


def _blocks(sequences: Iterable[NDArray[Any]], request: Request) -> Iterator[list[NDArray[Any]]]:
    rows = iter(_packed(sequences, request.length) if request.pack else sequences)
    while block := list(itertools.islice(rows, ROWS_A_BLOCK)):
        yield block


def _packed(sequences: Iterable[NDArray[Any]], length: int) -> Iterator[NDArray[Any]]:
    packer = Packer(length)
    for sequence in sequences:
        yield from packer.add(sequence)
    yield from packer.rest()
