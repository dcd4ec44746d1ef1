"""The inputs of a later attempt: what nobody has touched is not read again, and all else is."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from orchestrator.agent.content_store import Store
from orchestrator.agent.placed_inputs import PlacedInputs, place_inputs
from orchestrator.core.codec import dumps, load
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.record_class import replace
from orchestrator.core.records import Attempt, Input, Manifest

PATH = "code/deep/script.py"


class Placing:
    """A run of a host, and the contents that it has been given."""

    def __init__(self, folder: Path) -> None:
        self.workdir = Workdir(folder)
        self.store = Store(self.workdir.store)
        self.run: RunDir = self.workdir.run("r")
        self.file = self.run.root / PATH

    def content(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        self.store.root.mkdir(parents=True, exist_ok=True)
        (self.store.root / sha256).write_bytes(data)
        return sha256

    def attempt(self, number: int, data: bytes) -> None:
        self.run.make(number, f"t{number}")
        item = Input(PATH, self.content(data))
        place_inputs(
            self.store, self.run, Manifest("r", "j", "h", 0.0, (), inputs=(item,), attempt=Attempt(number))
        )

    def note(self, number: int) -> Path:
        return self.run.folder_of(number) / "placed.json"

    def pretend(self, number: int, data: bytes) -> None:
        """Have the note of an attempt say that it was given something else."""
        known = load(PlacedInputs, self.note(number), self.run.runs)
        other = replace(known.files[PATH], sha256=self.content(data))
        self.note(number).write_text(dumps(PlacedInputs({PATH: other})))


@pytest.fixture
def placing(tmp_path: Path) -> Placing:
    return Placing(tmp_path / "w")


def test_what_nobody_has_touched_is_not_read_again(placing: Placing) -> None:
    placing.attempt(1, b"one")
    placing.pretend(1, b"two")
    placing.attempt(2, b"two")
    assert placing.file.read_bytes() == b"one"  # nobody has looked


@pytest.mark.parametrize("what", ["touched", "written", "replaced", "removed"])
def test_what_somebody_has_touched_is(placing: Placing, what: str) -> None:
    placing.attempt(1, b"one")
    placing.pretend(1, b"two")
    before = placing.file.stat()
    if what == "touched":
        os.utime(placing.file)
    elif what == "written":
        placing.file.write_bytes(b"own")
        os.utime(placing.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        placing.file.unlink()
        if what == "replaced":
            placing.file.write_bytes(b"own")
    placing.attempt(2, b"two")
    assert placing.file.read_bytes() == b"two"


def test_what_is_to_be_other_bytes_is_placed_and_the_next_attempt_knows_those(placing: Placing) -> None:
    placing.attempt(1, b"one")
    placing.attempt(2, b"two")
    assert placing.file.read_bytes() == b"two"
    inode = placing.file.stat().st_ino
    placing.attempt(3, b"two")
    assert placing.file.stat().st_ino == inode
    found = load(PlacedInputs, placing.note(3), placing.run.runs).files[PATH]
    assert found.sha256 == hashlib.sha256(b"two").hexdigest() and found.identity[3] == inode


@pytest.mark.parametrize("note", [None, "{", '{"files": 3}'])
def test_without_a_note_of_use_the_files_tell(placing: Placing, note: str | None) -> None:
    placing.attempt(1, b"one")
    if note is None:
        placing.note(1).unlink()
    else:
        placing.note(1).write_text(note)
    before = placing.file.stat()
    placing.attempt(2, b"one")
    assert placing.file.stat().st_ino == before.st_ino
    placing.attempt(3, b"three")
    assert placing.file.read_bytes() == b"three"


def test_a_folder_that_has_become_a_link_is_refused(placing: Placing, tmp_path: Path) -> None:
    placing.attempt(1, b"one")
    folder = placing.file.parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AgentError) as caught:
        placing.attempt(2, b"two")
    assert caught.value.kind == "foreign" and (tmp_path / "elsewhere/script.py").read_bytes() == b"one"
