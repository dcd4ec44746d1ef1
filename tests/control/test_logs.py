"""Logs as streams: line ends, tails, long lines, folding, hosts that come late or not at all."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.control.log_fold import FOLDED_BLOCK, fold_lines
from orchestrator.control.log_reader import LineSplitter, LogReader
from orchestrator.control.log_stream import _TOGETHER, LogBatch, iter_batches, iter_lines
from orchestrator.core.errors import ConnectError, OrchestrateError
from orchestrator.core.host_answers import LogPart, Size
from orchestrator.hosts.fleet import Fleet

KEEPENDS = ["a\n", "b\r\n", "c\r", "\n", "\r\r\n", "ü€\n", "\N{FULLWIDTH TILDE}x\r\n", "last"]


class File:
    """A log on a host, as the agent reads it."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.read_bytes = 0

    def read(self, offset: int, limit: int) -> tuple[LogPart, bytes]:
        size = len(self.data)
        start = max(0, size + offset) if offset < 0 else min(offset, size)
        data = self.data[start : start + limit]
        self.read_bytes += len(data)
        return LogPart(Size(start), Size(size), 5.0), data


def read_all(file: File, *, block: int, tail: int | None = None) -> str:
    reader = LogReader("rank_0", block=block, tail=tail)
    reader.close()
    parts = []
    while not reader.is_done:
        parts.append(reader.step(file.read).text)
    return "".join(parts)


def lines_of(text: str) -> list[str]:
    """By the rules of this page: a line ends with \\n, \\r\\n or \\r."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


@pytest.mark.parametrize("size", range(1, 9))
def test_lines_are_the_same_however_the_bytes_come(size: int) -> None:
    text = "".join(KEEPENDS)
    data = text.encode()
    splitter = LineSplitter(1000)
    found = "".join(splitter.feed(data[at : at + size]) for at in range(0, len(data), size))
    assert (found + splitter.feed(b"", is_last=True)).split("\n") == lines_of(text)


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 64, 1000])
@pytest.mark.parametrize("last", ["", "without an end"])
def test_a_tail_has_as_many_lines_as_were_asked_for(block: int, last: str) -> None:
    text = "".join([*KEEPENDS[:-1], "x" * 50 + "\n", "y\r\n", "\r\n", last])
    lines = lines_of(text)
    for count in range(len(lines) + 2):
        wanted = lines[-count:] if count else []
        said = read_all(File(text.encode()), block=block, tail=count)
        assert said == "".join(f"{line}\n" for line in wanted), (count, block)


def test_a_tail_of_long_lines_is_exact() -> None:
    """The oracle is Python's own splitlines; 400 bytes a line were looked at before."""
    data = b"".join(b"%d " % number * 5000 + b"\n" for number in range(100))
    file = File(data)
    said = read_all(file, block=1 << 16, tail=20)
    assert said.splitlines() == data.decode().splitlines()[-20:]
    assert file.read_bytes < len(data)


def test_a_log_that_grows_meanwhile_is_read_to_where_it_ended() -> None:
    """Else a log that grows faster than it is read never ends."""
    file = File(b"a\nb\n")
    reader = LogReader("rank_0", block=2)
    reader.close()
    parts = []
    while not reader.is_done:
        parts.append(reader.step(file.read).text)
        file.data += b"more\n" * 10
    assert "".join(parts) == "a\nb\n"


def test_following_gives_whole_lines_and_the_last_one_at_the_end() -> None:
    file = File(b"one\ntw")
    reader = LogReader("rank_0", block=100)
    first = reader.step(file.read)
    assert (first.text, first.was_there, first.modified) == ("one\n", True, 5.0)
    file.data += b"o\nthree"
    second = reader.step(file.read)
    assert (second.text, second.was_there) == ("two\n", False)
    assert reader.step(file.read).text == ""
    reader.close()
    assert reader.step(file.read).text == "three\n" and reader.is_done


def test_a_log_that_was_written_anew_is_read_anew() -> None:
    file = File(b"old, and longer\n")
    reader = LogReader("rank_0", block=100)
    reader.step(file.read)
    file.data = b"new\n"
    assert [reader.step(file.read).text for _ in range(2)] == ["", "new\n"]


def test_a_very_long_line_costs_its_bytes_once() -> None:
    """A line without an end was joined to the one before at each block: 150 MB took hours."""
    block, size = 1 << 16, 64 << 20
    begin = time.process_time()
    splitter = LineSplitter(block)
    piece = b"x" * block
    tracemalloc.start()
    try:
        given = sum(len(splitter.feed(piece)) for _ in range(size // block))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert given == size and peak < 16 * block
    assert time.process_time() - begin < 5


def test_pieces_of_a_long_line_are_told_as_such() -> None:
    reader = LogReader("rank_0", block=4)
    reader.close()
    file = File(b"abcdefghij\nk\n")
    parts = []
    while not reader.is_done:
        parts.append(reader.step(file.read))
    assert [(part.text, part.begins) for part in parts if part.text] == [
        ("abcd", True),
        ("efgh", False),
        ("ij\n", False),
        ("k\n", True),
    ]
    batches = [LogBatch("h", "rank_0", part.text, part.begins, 0.0, False) for part in parts if part.text]
    assert [(line.text, line.goes_on) for line in iter_lines(iter(batches))] == [
        ("abcd", True),
        ("efgh", True),
        ("ij", False),
        ("k", False),
    ]


def batch(rank: int, *lines: str) -> LogBatch:
    return LogBatch("h", f"rank_{rank}", "".join(f"{line}\n" for line in lines), True, 0.0, False)


def folded(*batches: LogBatch | None, **keys: float) -> list[tuple[str, str]]:
    """Ranks and text of each folded line."""
    found = fold_lines(batches, clock=lambda: 0.0, **keys)  # type: ignore[arg-type]
    return [(",".join(label[5:] for label in line.labels), line.line.text) for line in found]


def test_equal_lines_of_many_ranks_are_one() -> None:
    assert folded(batch(0, "start", "step 1"), batch(1, "start", "step 1")) == [
        ("0,1", "start"),
        ("0,1", "step 1"),
    ]


def test_a_line_that_only_one_rank_has_does_not_unfold_the_others() -> None:
    assert folded(batch(0, "start", "step 1"), batch(1, "start", "warning", "step 1")) == [
        ("0,1", "start"),
        ("1", "warning"),
        ("0,1", "step 1"),
    ]


def test_each_rank_keeps_its_order_when_lines_are_folded() -> None:
    one, two, three = ["a", "b", "a", "c", "a"], ["b", "a", "c", "a", "b"], ["c", "c", "b", "a"]
    found = folded(batch(0, *one), batch(1, *two), batch(2, *three))
    for rank, lines in enumerate([one, two, three]):
        assert [text for ranks, text in found if str(rank) in ranks.split(",")] == lines


def test_lines_wait_for_others_only_as_long_as_there_is_time_and_room() -> None:
    now = [0.0]

    def batches() -> Iterator[LogBatch | None]:
        yield batch(0, "start")
        yield None
        now[0] = 0.4
        yield batch(1, "start")
        now[0] = 2.0
        yield None
        yield batch(2, "start")

    found = [line.labels for line in fold_lines(batches(), clock=lambda: now[0], wait=1.0)]
    assert found == [("rank_0", "rank_1"), ("rank_2",)]
    assert folded(batch(0, "a", "b"), batch(1, "a", "b"), most=350) == [
        ("0", "a"),
        ("1", "a"),
        ("0,1", "b"),
    ]


class Agents:
    """A fleet whose hosts have files; `errors` of a host are met before it answers."""

    def __init__(self, files: Mapping[str, Mapping[str, File]]) -> None:
        self.files = files
        self.errors: dict[str, list[OrchestrateError]] = {}
        self.held: dict[str, threading.Event] = {}
        self.dropped: list[str] = []
        self.told: list[str] = []
        self._pool = ThreadPoolExecutor(8)

    def begin(self, work: Callable[[Any], Any], name: str) -> Future[Any]:
        self.told.append(f"{name} is asked")
        return self._pool.submit(self._answer, work, name)

    def _answer(self, work: Callable[[Any], Any], name: str) -> tuple[Any, Any]:
        if name in self.held:
            self.held[name].wait(20)
        if self.errors.get(name):
            return None, self.errors[name].pop(0)
        answer = work(SimpleNamespace(host=name, read_log=self._reader(name)))
        self.told.append(f"{name} has answered")
        return answer, None

    def _reader(self, name: str) -> Callable[..., tuple[LogPart, bytes]]:
        return lambda run_id, label, offset, limit: self.files[name][label].read(offset, limit)

    def drop(self, name: str) -> None:
        self.dropped.append(name)
        self.held.pop(name).set()

    def batches(self, **keys: Any) -> Iterator[LogBatch | None]:
        labels = {name: list(files) for name, files in self.files.items()}
        return iter_batches("run", cast(Fleet, self), labels, **keys)


def said(batches: Iterator[LogBatch | None]) -> list[tuple[str, str]]:
    return [(line.label, line.text) for line in iter_lines(batches)]


def test_short_logs_come_in_the_order_of_hosts_and_ranks() -> None:
    files = {
        host: {f"rank_{rank}": File(b"a\nb\n") for rank in ranks}
        for host, ranks in (("h2", (0, 1)), ("h1", (2, 3)))
    }
    assert said(Agents(files).batches()) == [(f"rank_{rank}", text) for rank in range(4) for text in "ab"]


def test_a_host_that_hangs_keeps_nothing_of_the_others_back() -> None:
    agents = Agents({"h1": {"rank_0": File(b"x\n")}, "h2": {"rank_1": File(b"y\n" * 3_000_000)}})
    agents.held["h1"] = threading.Event()
    batches = agents.batches()
    taken = 0
    for found in batches:
        taken += len(found.text) if found is not None else 0
        if taken == 6_000_000:
            break
    batches.close()  # type: ignore[attr-defined]
    assert agents.dropped == ["h1"]


def test_a_long_log_begins_at_once_whatever_the_other_hosts_do() -> None:
    """Only short logs wait for each other, to come in their order."""
    agents = Agents({"h1": {"rank_0": File(b"x\n")}, "h2": {"rank_1": File(b"y\n" * 3_000_000)}})
    agents.held["h1"] = threading.Event()
    began = time.monotonic()
    batches = agents.batches()
    first = next(batches)
    assert first is not None and first.label == "rank_1" and time.monotonic() - began < _TOGETHER / 2
    batches.close()  # type: ignore[attr-defined]


def test_the_first_host_is_asked_before_the_others_share_this_machine_with_it() -> None:
    """Where it answers at once; how the others do without it, the tests above say. A busy machine is late."""

    def told() -> list[str]:
        agents = Agents({f"h{number}": {f"rank_{number}": File(b"x\n")} for number in range(3)})
        agents.held["h0"] = threading.Event()
        answering = threading.Timer(0.02, agents.held["h0"].set)
        answering.start()
        said(agents.batches())
        return agents.told[:3]

    wanted = ["h0 is asked", "h0 has answered", "h1 is asked"]
    assert any(told() == wanted for _ in range(10))


def test_a_long_log_is_not_held_in_memory() -> None:
    """And what is shown first does not wait for the rest: 8 x 100 MB took 20 s and 1.9 GB."""
    files = {f"h{rank}": {f"rank_{rank}": File(b"0123456789abcde\n" * (1 << 19))} for rank in range(8)}
    agents = Agents(files)
    tracemalloc.start()
    try:
        total = sum(len(found.text) for found in agents.batches() if found is not None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 8 << 23 and peak < 48 << 20, peak


def test_following_goes_on_where_a_host_broke_off_and_ends_with_the_run() -> None:
    file = File(b"one\n")
    agents = Agents({"h1": {"rank_0": file}})
    is_over = threading.Event()
    batches = iter_lines(agents.batches(is_over=is_over.is_set))
    assert next(batches).text == "one"
    agents.errors["h1"] = [ConnectError("away", where="h1")]
    file.data += b"two\n"
    assert next(batches).text == "two"
    file.data += b"three"
    is_over.set()
    assert [line.text for line in batches] == ["three"]


def test_a_host_that_stays_away_is_told_after_all_others() -> None:
    agents = Agents({"h1": {"rank_0": File(b"x\n")}, "h2": {"rank_1": File(b"y\n")}})
    agents.errors["h1"] = [ConnectError("away", where="h1")]
    found = []
    with pytest.raises(ConnectError, match="away"):
        for line in iter_lines(agents.batches()):
            found.append(line.text)
    assert found == ["y"]


def test_equal_logs_of_many_hosts_are_folded_whole() -> None:
    """Hosts are read in blocks, not line by line, and one may be ahead of another: there is room for that."""
    data = b"".join(b"line %d of all\n" % number for number in range(10_000))
    agents = Agents({f"h{rank}": {f"rank_{rank}": File(data)} for rank in range(8)})
    batches = agents.batches(block=FOLDED_BLOCK)
    found = [(len(each.labels), each.line.text) for each in fold_lines(batches, clock=lambda: 0.0)]
    assert [text.encode() + b"\n" for count, text in found if count == 8] == data.splitlines(keepends=True)
