"""The journal of a collection, byte for byte as earlier versions wrote it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.checkpoint.journal import Done, Header, Journal
from orchestrator.core.errors import CheckpointError

HEADER = b'{"signature":"ab12","source":"run-1","at":[1,4],"files":{"0":[10,20,30],"11":[1,2,3]}}\n'
# As version afcecfb left it when it was killed.
WRITTEN = b'{"pid":123}\n' + HEADER + b"[0,0,4096,77,0]\n[1,4096,9,5,11]\n[2,0,"


def journal_of(folder: Path, content: bytes) -> Journal:
    (folder / ".out.ckpt.journal").write_bytes(content)
    return Journal(folder / "out.ckpt")


def test_what_an_earlier_version_wrote_is_read_and_written_again(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, WRITTEN)
    header = Header("ab12", "run-1", (1, 4), {0: (10, 20, 30), 11: (1, 2, 3)})
    assert journal.earlier == header and (header.epoch, header.step) == (1, 4)
    assert journal.done == {(0, 0): Done(4096, 77, 0), (1, 4096): Done(9, 5, 11)}
    assert journal.begin(header)
    journal.add((2, 0), Done(1, 2, 0))
    journal.close()
    ours = b'{"pid":%d}\n' % os.getpid()
    assert journal.path.read_bytes() == ours + HEADER + b"[0,0,4096,77,0]\n[1,4096,9,5,11]\n[2,0,1,2,0]\n"


def test_a_line_that_says_something_else_is_passed_over(tmp_path: Path) -> None:
    odd = b'[1,2]\n["a",0,1,2,3]\n[1.5,0,1,2,3]\n{"signature":1}\nnull\n\xff\n[[[[\n{}\n'
    journal = journal_of(tmp_path, WRITTEN + b"\n" + odd)
    assert len(journal.done) == 2 and journal.earlier is not None
    journal.close()


def test_a_journal_of_a_newer_version_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it has format 2, a newer version's.*remove the journal"):
        journal_of(tmp_path, HEADER.replace(b"{", b'{"format":2,', 1))


def test_another_collection_is_told_by_its_process(tmp_path: Path) -> None:
    first = journal_of(tmp_path, b"")
    with pytest.raises(CheckpointError, match=f"by another collection, process {os.getpid()} "):
        Journal(tmp_path / "out.ckpt")
    first.close()
