"""The two slots of `status.json`: what is torn, cut, too large or of another version."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import zlib
from pathlib import Path

import pytest

from orchestrator.agent.status_file import StatusFile
from orchestrator.core.codec import DecodeError, NewerFormat, Stored, dumps, loads
from orchestrator.core.ends import End, EndKind
from orchestrator.core.records import HostStatus, RankStatus
from tests.fixtures.written import restore

HEAD = 64


@pytest.fixture
def file(tmp_path: Path) -> StatusFile:
    (tmp_path / "run").mkdir()
    return StatusFile(tmp_path / "run" / "status.json", tmp_path)


def status(number: int, *tail: str) -> HostStatus:
    end = End(EndKind.EXITED, 1.0, exit_code=1, tail=tail, evidence=tail) if tail else None
    return HostStatus("r", "j", "h", float(number), (RankStatus(0, 0, 0, end=end),), phase="committed")


def slot_size(path: Path) -> int:
    return int(json.loads(path.read_bytes())["slot"])


def test_what_is_written_is_read_and_the_file_stays_where_it_is(file: StatusFile) -> None:
    file.create(status(1))
    made = os.stat(file.path)
    for number in range(2, 50):
        file.write(status(number, *["x" * number] * 20), urgent=number % 2 == 0)
        assert StatusFile(file.path, file.path.parents[1]).read().updated == number
        assert json.loads(file.path.read_bytes())["format"] == HostStatus.FORMAT  # JSON as a whole
    now = os.stat(file.path)
    assert (made.st_ino, made.st_size, made.st_mode & 0o777) == (now.st_ino, now.st_size, 0o600)


def test_another_writer_goes_on_where_the_first_one_was_killed(file: StatusFile) -> None:
    file.create(status(1))
    file.write(status(2))
    other = StatusFile(file.path, file.path.parents[1])
    other.write(status(3))
    assert file.read() == other.read() == status(3)


@pytest.mark.parametrize("cut", [0, 1, 10, 40, 200, 300])
def test_a_slot_that_is_torn_leaves_the_other(file: StatusFile, cut: int) -> None:
    """As a killed writer, or a power failure, leaves it: its new beginning before its old end."""
    file.create(status(1, "old"))
    file.write(status(2, "before"))
    before = file.path.read_bytes()
    file.write(status(3, "a longer line than the one before"))
    after = bytearray(file.path.read_bytes())
    start = HEAD  # the third goes where the first was
    torn = bytes(after[: start + cut]) + before[start + cut :]
    file.path.write_bytes(torn)
    assert file.read().updated in ((2,) if cut < 300 else (2, 3))
    fresh = StatusFile(file.path, file.path.parents[1])
    fresh.write(status(4))
    assert fresh.read() == status(4)


def test_every_bit_counts(file: StatusFile) -> None:
    file.create(status(1))
    whole = file.path.read_bytes()
    text = whole.index(b'{"run_id"')
    for place in (HEAD + 1, HEAD + 4, HEAD + 9, text, text + 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        file.path.write_bytes(damaged)
        with pytest.raises(DecodeError, match="neither of its two slots is whole"):
            file.read()


def test_a_reader_never_sees_a_part(file: StatusFile) -> None:
    file.create(status(1))
    stop = threading.Event()

    def write() -> None:
        number = 1
        while not stop.is_set():
            number += 1
            file.write(status(number, *["y" * (number % 50)] * 20))

    writer = threading.Thread(target=write)
    writer.start()
    reader, last = StatusFile(file.path, file.path.parents[1]), 0.0
    try:
        for _ in range(300):
            now = reader.read()
            end = now.ranks[0].end
            assert now.updated >= last and (end is None or set(map(len, end.tail)) == {int(now.updated) % 50})
            last = now.updated
    finally:
        stop.set()
        writer.join()
    assert last > 1


def test_what_does_not_fit_has_a_larger_file_made_for_it(file: StatusFile) -> None:
    file.create(status(1))
    small = slot_size(file.path)
    large = status(2, *["z" * 2000] * 20)
    file.write(large)
    assert file.read() == large and slot_size(file.path) > small
    file.write(status(3))
    assert file.read() == status(3) and os.listdir(file.path.parent) == ["status.json"]


def test_a_file_that_was_removed_is_made_again(file: StatusFile) -> None:
    file.create(status(1))
    file.path.unlink()
    file.write(status(2))
    assert file.read() == status(2)


@pytest.mark.parametrize("number", [1, 2])
def test_what_earlier_versions_wrote_is_read_and_replaced(file: StatusFile, number: int) -> None:
    written = {**json.loads(dumps(status(1))), "format": number}
    file.path.write_text(json.dumps(written))
    assert file.read() == status(1)
    file.write(status(2))
    assert file.read() == status(2)


class EarlierStatus(Stored):
    """As the versions before the slots read the file; this is all of it that they look at first."""

    FORMAT = 2


def test_an_earlier_version_says_that_it_is_newer(file: StatusFile) -> None:
    file.create(status(1))
    file.write(status(2))
    with pytest.raises(NewerFormat, match="it has format 3, a newer version's"):
        loads(EarlierStatus, file.path.read_bytes())


@pytest.mark.parametrize("text", ['{"format": 4, "slot": 4096, "slots": [\n', '{"format": 9}'])
def test_a_newer_one_is_named(file: StatusFile, text: str) -> None:
    file.path.write_text(text)
    with pytest.raises(NewerFormat, match="a newer version's"):
        file.read()


def test_what_is_on_disk_is_for_ever(file: StatusFile) -> None:
    """The bytes of format 3, put together by hand."""
    size, text = 4096, dumps(status(7)).replace('"format": 3, ', "").encode()
    slots = []
    for sequence, each in ((8, text), (7, b"{}")):
        crc = zlib.crc32(each, sequence)
        slots.append(b'[%d, %d, "%08x",\n%b\n]' % (sequence, len(each), crc, each))
    head = (b'{"format": 3, "slot": %d, "slots": [' % size).ljust(HEAD - 1) + b"\n"
    first, second = (slot.ljust(size - 2) for slot in slots)
    file.path.write_bytes(head + first + b" ," + second + b"]}")
    assert file.read() == status(7)


def test_a_fixture_of_it_is_put_back_with_its_paths(tmp_path: Path) -> None:
    kept, back = (tmp_path / name / "hosts/h1/runs/r/status.json" for name in ("kept", "back"))
    kept.parent.mkdir(parents=True)
    there = dataclasses.replace(status(1), job="@FOLDER@/job")
    StatusFile(kept, kept.parents[1]).create(there)
    restore(tmp_path / "kept", tmp_path / "back")
    found = StatusFile(back, back.parents[1]).read()
    assert found == dataclasses.replace(there, job=f"{tmp_path}/back/job")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\0" * 5000, b'{"format": 3, "slot": 99999999, "slots": [\n', b'{"format": 3}', b"[]"],
    ids=["empty", "cut", "zeros", "short", "no slots", "list"],
)
def test_a_damaged_file_is_refused_in_words(file: StatusFile, data: bytes) -> None:
    file.path.write_bytes(data)
    with pytest.raises(DecodeError):
        file.read()


def test_links_and_pipes_are_not_followed(file: StatusFile, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    file.path.symlink_to(tmp_path / "mine")
    for act in (file.read, lambda: file.write(status(1))):
        with pytest.raises(OSError, match="a symbolic link"):
            act()
    file.path.unlink()
    os.mkfifo(file.path)
    with pytest.raises(OSError, match="a named pipe"):
        file.write(status(1))
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_whole_host_of_ranks_fits(file: StatusFile) -> None:
    ranks = tuple(
        RankStatus(rank, rank, rank, progress={"step": 10, "loss": 1.25, "lr": 1e-4, "time": 1.0})
        for rank in range(64)
    )
    whole = dataclasses.replace(status(1), ranks=ranks)
    file.create(whole)
    file.write(whole)
    assert file.read() == whole
