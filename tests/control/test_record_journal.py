"""The record on disk: snapshot and journal, as they are written, cut, damaged, full and read meanwhile."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.control.record_changes import (
    Journal,
    apply_changes,
    change_line,
    differences,
    differences_of,
    header_line,
)
from orchestrator.control.record_journal import RecordReader, RecordWriter
from orchestrator.control.run_record import HostView, Replica, RunRecord, Waits, read_record, write_record
from orchestrator.core.codec import from_json, to_json
from orchestrator.core.errors import AssumedWarning, RunNotFound
from orchestrator.core.paths import ControlDir
from orchestrator.core.states import RankState, RunState
from tests.control.recorded import Clock, control_in, failed, run_of, stepped, with_rank, with_view
from tests.control.test_monitor import no_bytes_written

STEPS = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["state", "progress", "error", "lost", "phase", "warn", "gone"]),
    st.integers(0, 3),
)


def changed(record: RunRecord, host: int, what: str, value: int) -> RunRecord:
    """A record as it may go on."""
    name = f"h{host}"
    if record.hosts[name].status is None and what in ("state", "progress"):
        return record
    if what == "state":
        return with_rank(record, name, state=list(RankState)[value])
    if what == "progress":
        return with_rank(record, name, progress={"step": value, "loss": value / 7})
    if what == "error":
        return with_view(record, name, error="x" * value, waits=Waits.LOGIN, limit=None if value else 2.0)
    if what == "lost":
        return with_view(record, name, lost=bool(value))
    if what == "gone":
        return with_view(record, name, status=None)
    if what == "phase":
        return dataclasses.replace(record, phase=f"p{value}", state=list(RunState)[value % 3])
    return dataclasses.replace(record, warnings=tuple(str(each) for each in range(value)), victims=(value,))


@given(st.lists(STEPS, max_size=8))
def test_changes_make_of_one_record_the_other(steps: list[tuple[int, str, int]]) -> None:
    first = after = run_of(3)
    for step in steps:
        after = changed(after, *step)
    changes = json.loads(json.dumps(list(differences(first, after))))
    data = to_json(first)
    apply_changes(data, changes)
    assert data == to_json(after) and from_json(RunRecord, data) == after
    assert Replica(to_json(first)).apply(changes) == after
    assert bool(changes) == (first != after)


@given(st.lists(st.lists(STEPS, max_size=4), min_size=1, max_size=4))
def test_what_was_left_out_can_be_written_later(turns: list[list[tuple[int, str, int]]]) -> None:
    slow = frozenset({"progress", "silent", "updated", "watched"})
    first = after = run_of(3)
    data = to_json(first)
    for turn in turns:
        before = after
        for step in turn:
            after = changed(after, *step)
        apply_changes(data, json.loads(json.dumps(differences(before, after, (), slow))))
        assert stepped_back(from_json(RunRecord, data)) == stepped_back(after)
    apply_changes(data, json.loads(json.dumps(differences_of(first, after, (), slow))))
    assert from_json(RunRecord, data) == after


def test_steps_of_other_hosts_are_not_written_with_what_cannot_wait(tmp_path: Path) -> None:
    control, clock = control_in(tmp_path), Clock()
    writer = RecordWriter(control, clock=clock)
    first = run_of(2)
    writer.save(first)
    record = with_rank(stepped(first, 7), "h0", state=RankState.STOPPED)
    writer.save(record)
    assert b'"progress"' not in control.journal.read_bytes()
    assert read_record(control) == with_rank(first, "h0", state=RankState.STOPPED)
    clock.now += 60
    writer.save(record)
    assert read_record(control) == record


@given(st.lists(st.lists(STEPS, max_size=3), max_size=6))
def test_what_is_read_is_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, turns: list[list[tuple[int, str, int]]]
) -> None:
    """As of the last save, in all that cannot wait; and in everything once its time has come."""
    control, clock = control_in(tmp_path_factory.mktemp("run")), Clock()
    writer = RecordWriter(control, clock=clock)
    record = run_of(3)
    writer.save(record)
    for turn in turns:
        for step in turn:
            record = changed(record, *step)
        writer.save(record)
        assert stepped_back(read_record(control)) == stepped_back(record)
    clock.now += 60
    writer.save(record)
    writer.close()
    assert read_record(control) == record


def stepped_back(record: RunRecord) -> RunRecord:
    for name, seen in record.hosts.items():
        if seen.status is not None:
            record = with_rank(record, name, progress={})
    return record


@pytest.fixture
def written(tmp_path: Path) -> tuple[ControlDir, list[RunRecord]]:
    """A run's directory after a snapshot and three changes, with the record as it was after each."""
    control = control_in(tmp_path)
    writer = RecordWriter(control, clock=Clock())
    records = [run_of(2)]
    for name in ("h0", "h1"):
        records.append(failed(records[-1], name))
    records.append(dataclasses.replace(records[-1], phase="stopping", errors=("a: b",)))
    for record in records:
        writer.save(record)
    writer.close()
    return control, records


def test_a_journal_that_was_cut_at_any_byte_of_its_last_line_says_what_was_before(
    written: tuple[ControlDir, list[RunRecord]],
) -> None:
    control, records = written
    whole = control.journal.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for end in range(last, len(whole) - 1):
        control.journal.write_bytes(whole[:end])
        assert read_record(control) == records[2], end
    for end in (len(whole) - 1, len(whole)):  # only its end of line is missing: all of it is there
        control.journal.write_bytes(whole[:end])
        assert read_record(control) == records[3]


@pytest.mark.parametrize("other", [b"\x00", b"9", b"\xff"])
def test_a_last_line_with_any_other_byte_counts_for_nothing(
    written: tuple[ControlDir, list[RunRecord]], other: bytes
) -> None:
    control, records = written
    whole = control.journal.read_bytes()
    last = whole.rstrip(b"\n").rindex(b"\n") + 1
    for place in range(last, len(whole) - 1, 3):
        if whole[place : place + 1] != other:
            control.journal.write_bytes(whole[:place] + other + whole[place + 1 :])
            assert read_record(control) == records[2], place


def test_damage_in_the_middle_is_said_and_what_lies_before_counts(
    written: tuple[ControlDir, list[RunRecord]],
) -> None:
    control, records = written
    lines = control.journal.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"failed", b"killed")
    control.journal.write_bytes(b"".join(lines))
    with pytest.warns(AssumedWarning, match=r"record\.journal: line 3 is damaged: it and the 1 behind it"):
        assert read_record(control) == records[1]
    control.journal.write_bytes(b"".join([lines[0], *lines[2:]]))  # a line is missing
    with pytest.warns(AssumedWarning, match="line 2 is damaged"):
        assert read_record(control) == records[0]
    control.journal.write_bytes(b"x" + b"".join(lines))
    with pytest.warns(AssumedWarning, match="line 1 is damaged"):
        assert read_record(control) == records[0]


def test_a_journal_of_a_newer_version_and_changes_of_what_is_not_there_are_told_in_a_line(
    written: tuple[ControlDir, list[RunRecord]],
) -> None:
    control, _ = written
    whole = control.journal.read_bytes()
    name = json.loads(control.record.read_text())["journal"]
    for place in (["hosts", "nobody", "error"], ["hosts", "h0", "status", "ranks", 7], [], "phase", [["a"]]):
        control.journal.write_bytes(header_line(name) + change_line(1, [[place, 1]]))
        with pytest.raises(RunNotFound, match="a change of what is not there"):
            read_record(control)
    text = whole.splitlines()[0].replace(b'"format": 1', b'"format": 7').rpartition(b', "crc32"')[0]
    control.journal.write_bytes(text + b', "crc32": "%08x"}\n' % zlib.crc32(text))
    with pytest.raises(RunNotFound, match=r"format 7, a newer version's.*use the version"):
        read_record(control)


def test_a_version_that_knows_no_journal_says_that_ours_is_newer(
    written: tuple[ControlDir, list[RunRecord]],
) -> None:
    """It reads formats up to 2; what is in the snapshot alone would be old."""
    assert json.loads(written[0].record.read_text())["format"] > 2


def test_the_journal_of_the_snapshot_before_counts_for_nothing(
    written: tuple[ControlDir, list[RunRecord]],
) -> None:
    """Its writer died between the new snapshot and the end of the old journal."""
    control, records = written
    old = control.journal.read_bytes()
    ended = dataclasses.replace(records[-1], phase="over there")
    writer = RecordWriter(control)
    writer.save(ended)
    writer.close()
    assert not control.journal.exists()
    control.journal.write_bytes(old)
    assert read_record(control) == ended


def test_a_state_is_written_at_once_and_progress_alone_after_a_while(tmp_path: Path) -> None:
    control, clock = control_in(tmp_path), Clock()
    writer = RecordWriter(control, clock=clock)
    first = run_of(2)
    writer.save(first)
    record = stepped(dataclasses.replace(first, updated=5.0, watched=5.0), 2)
    writer.save(record)
    assert read_record(control) == first
    clock.now += 9
    writer.save(record)
    assert read_record(control) == first
    clock.now += 2
    writer.save(record)
    assert read_record(control) == record
    later = stepped(record, 3)
    writer.save(failed(later, "h1"))
    found = read_record(control)
    assert found.hosts["h1"] == failed(later, "h1").hosts["h1"] and found.hosts["h0"] == record.hosts["h0"]


def test_without_news_it_is_said_now_and_then_that_somebody_watches(tmp_path: Path) -> None:
    control, clock = control_in(tmp_path), Clock()
    writer = RecordWriter(control, clock=clock)
    record = run_of(50)
    writer.save(record)
    size = 0
    for turn in range(100):
        clock.now += 1
        writer.save(dataclasses.replace(record, watched=clock.now, updated=clock.now))
        size = control.journal.stat().st_size if control.journal.exists() else 0
        assert clock.now - max(read_record(control).watched, 1000.0) <= 10, turn
    assert size < 100 + 10 * 150


def test_what_a_change_of_one_host_costs_does_not_grow_with_hosts(tmp_path: Path) -> None:
    grown = []
    for hosts in (10, 1000):
        control = control_in(tmp_path, f"r{hosts}")
        writer = RecordWriter(control, clock=Clock())
        record = failed(run_of(hosts), "h3")
        writer.save(record)
        writer.save(failed(record, "h4"))
        before = control.journal.stat().st_size
        writer.save(failed(failed(record, "h4"), "h5"))
        grown.append(control.journal.stat().st_size - before)
        writer.close()
    assert grown[0] == grown[1] < 200


def test_a_journal_that_has_outgrown_the_snapshot_becomes_one(tmp_path: Path) -> None:
    control = control_in(tmp_path)
    writer = RecordWriter(control, clock=Clock())
    record = run_of(2)
    sizes = []
    for turn in range(1200):
        record = dataclasses.replace(record, phase=f"{turn:0100d}")
        writer.save(record)
        sizes.append(control.journal.stat().st_size if control.journal.exists() else 0)
    assert max(sizes) < 66_000 and sizes.count(0) > 1
    assert read_record(control) == record


def test_a_run_that_has_ended_has_one_file(tmp_path: Path) -> None:
    control = control_in(tmp_path)
    writer = RecordWriter(control, clock=Clock())
    writer.save(run_of(2))
    writer.save(failed(run_of(2), "h0"))
    assert control.journal.exists()
    ended = dataclasses.replace(run_of(2, RunState.FAILED), ended=2.0, exit_code=1)
    writer.save(ended)
    assert not control.journal.exists() and read_record(control) == ended
    later = with_view(ended, "h0", lost=True)
    writer.save(later)
    assert not control.journal.exists() and read_record(control) == later


def test_what_another_process_has_written_is_written_anew(tmp_path: Path) -> None:
    """Who found no monitor, at the very moment when one began."""
    control = control_in(tmp_path)
    writer = RecordWriter(control, clock=Clock())
    record = failed(run_of(2), "h0")
    writer.save(run_of(2))
    writer.save(record)
    write_record(control, run_of(2))
    assert read_record(control) == run_of(2)
    writer.save(record)
    assert read_record(control) == record


def test_a_full_disk_leaves_the_old_record_whole_and_a_later_save_makes_it_new(tmp_path: Path) -> None:
    control = control_in(tmp_path)
    writer = RecordWriter(control, clock=Clock())
    records = [run_of(2), failed(run_of(2), "h0")]
    for record in records:
        writer.save(record)
    with no_bytes_written():
        with pytest.raises(OSError, match=r"record\.journal"):
            writer.save(dataclasses.replace(records[-1], phase="one"))
        with pytest.raises(OSError):
            RecordWriter(control).save(dataclasses.replace(records[-1], phase="two"))
    assert read_record(control) == records[-1]
    writer.save(dataclasses.replace(records[-1], phase="three"))
    assert read_record(control) == dataclasses.replace(records[-1], phase="three")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.root
def test_on_a_disk_that_is_full_now_and_then_the_record_is_always_whole(small_disk: Path) -> None:
    """It fills, byte by byte, while the run goes on; what was saved last without an error is what is read."""
    control = control_in(small_disk)
    writer = RecordWriter(control, clock=Clock())
    record = saved = run_of(8)
    filler, refused, taken = small_disk / "filler", 0, 0
    for turn in range(600):
        record = dataclasses.replace(record, phase=f"{turn:0300d}")
        if turn % 40 == 20:
            with filler.open("ab") as file:
                os.set_blocking(file.fileno(), True)
                with pytest.raises(OSError):
                    while True:
                        os.write(file.fileno(), b"x" * 4096)
        if turn % 40 == 0:
            filler.unlink(missing_ok=True)
        try:
            writer.save(record)
            saved, taken = record, taken + 1
        except OSError:
            refused += 1
        assert read_record(control) == saved
    assert refused > 20 and taken > 200


def test_who_reads_while_snapshots_are_made_sees_the_record_go_on_and_never_back(tmp_path: Path) -> None:
    control = control_in(tmp_path)
    writer = RecordWriter(control, clock=Clock())
    record = run_of(3)
    writer.save(record)
    over = threading.Event()

    def write() -> None:
        nonlocal record
        for turn in range(1, 3000):
            # Both in one save: who sees one without the other has read a mix.
            record = dataclasses.replace(
                with_view(record, "h1", error=f"{turn}"), phase=f"{turn}", errors=("x" * 300, f"{turn}")
            )
            writer.save(record)
            if over.is_set():
                break
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    last = reads = 0
    try:
        while not over.is_set():
            found = read_record(control)
            if found.errors:
                turn = int(found.phase)
                assert found.errors[1] == found.hosts["h1"].error == found.phase and turn >= last
                last = turn
            reads += 1
    finally:
        over.set()
        thread.join()
    assert read_record(control) == record and reads > 10


def test_a_record_whose_files_are_the_same_is_not_read_again(
    written: tuple[ControlDir, list[RunRecord]],
) -> None:
    control, records = written
    reader = RecordReader(control)
    found = reader.newest()
    assert found == records[-1] and reader.newest() is found
    write_record(control, records[0])
    assert reader.newest() == records[0]


def test_a_journal_of_nothing_says_nothing() -> None:
    assert Journal.of(b"") == Journal() == Journal.of(b"{")
    assert Journal.of(header_line("a")) == Journal("a")


def test_a_journal_that_was_cut_behind_its_writer_is_not_written_on_behind_a_gap(tmp_path: Path) -> None:
    control, record = control_in(tmp_path), run_of(2)
    writer = RecordWriter(control)
    writer.save(record)
    writer.save(dataclasses.replace(record, phase="p1"))
    os.truncate(control.journal, control.journal.stat().st_size - 7)
    writer.save(dataclasses.replace(record, phase="p2"))
    assert read_record(control).phase == "p2"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_lies_in_the_place_of_a_journal_costs_what_it_said_and_no_more(
    tmp_path: Path, kind: str
) -> None:
    control, record = control_in(tmp_path), run_of(2)
    writer = RecordWriter(control)
    writer.save(record)
    writer.save(dataclasses.replace(record, phase="p1"))
    writer.close()
    control.journal.unlink()
    if kind == "link":
        control.journal.symlink_to(control.record)
    elif kind == "pipe":
        os.mkfifo(control.journal)
    else:
        control.journal.mkdir()
    with pytest.warns(AssumedWarning, match=r"record\.journal: it is a .*does not count"):
        assert read_record(control).phase == record.phase


def test_an_attempt_that_begins_with_next_to_nothing_is_not_written_whole_again_and_again(
    tmp_path: Path,
) -> None:
    """The record of one that is being prepared is small; what its hosts then say fits the journal."""
    control = control_in(tmp_path)
    whole = run_of(200)
    begun = dataclasses.replace(
        whole, state=RunState.PREPARING, hosts={name: HostView() for name in whole.hosts}
    )
    writer = RecordWriter(control, clock=lambda: 0.0)
    writer.save(whole)
    for _ in range(3):
        writer.save(begun)
        snapshot = control.record.stat().st_ino
        writer.save(whole)
        assert control.record.stat().st_ino == snapshot
        assert read_record(control) == whole
        write_record(control, begun)  # who puts the next attempt in force does so
