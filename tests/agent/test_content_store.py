"""The content store: what is in it is what its name says."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

import pytest

from orchestrator.agent.content_store import Store
from orchestrator.core.errors import AgentError
from orchestrator.core.records import Input

DATA = b"some content\n" * 200_000  # more than one chunk
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_received_is_there_and_read_only(store: Store) -> None:
    assert store.missing([SHA256, "other"]) == [SHA256, "other"]
    store.receive(SHA256, len(DATA), io.BytesIO(DATA + b"the next request"))
    assert store.missing([SHA256, "other"]) == ["other"]
    assert (store.root / SHA256).read_bytes() == DATA
    assert stat.S_IMODE((store.root / SHA256).stat().st_mode) == 0o400


def test_receiving_twice_is_no_error(store: Store) -> None:
    for _ in range(2):
        store.receive(SHA256, len(DATA), io.BytesIO(DATA))
    assert os.listdir(store.root) == [SHA256]


@pytest.mark.parametrize(
    ("data", "kind"), [(DATA[:-1], "truncated"), (DATA[:-1] + b"x", "damaged"), (b"", "truncated")]
)
def test_bad_bytes_are_refused_and_leave_nothing(store: Store, data: bytes, kind: str) -> None:
    with pytest.raises(AgentError) as caught:
        store.receive(SHA256, len(DATA), io.BytesIO(data))
    assert caught.value.kind == kind
    assert os.listdir(store.root) == []


def test_an_empty_file_can_be_stored(store: Store, tmp_path: Path) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    store.receive(empty, 0, io.BytesIO(b"next"))
    store.place(Input("inputs/empty", empty), tmp_path)
    assert (tmp_path / "inputs/empty").read_bytes() == b""


def test_a_run_gets_a_copy_of_its_own(store: Store, tmp_path: Path) -> None:
    store.receive(SHA256, len(DATA), io.BytesIO(DATA))
    store.place(Input("inputs/deep/er/file", SHA256), tmp_path)
    placed = tmp_path / "inputs/deep/er/file"
    placed.write_bytes(b"changed by the worker")
    assert (store.root / SHA256).read_bytes() == DATA
    assert stat.S_IMODE(placed.stat().st_mode) & 0o077 == 0


def test_a_damaged_stored_copy_is_found_and_removed(store: Store, tmp_path: Path) -> None:
    store.receive(SHA256, len(DATA), io.BytesIO(DATA))
    stored = store.root / SHA256
    stored.chmod(0o600)
    stored.write_bytes(DATA[: len(DATA) // 2])
    with pytest.raises(AgentError, match="was damaged and has been removed"):
        store.place(Input("inputs/file", SHA256), tmp_path)
    assert store.missing([SHA256]) == [SHA256]


def test_placing_what_is_not_there_names_the_file(store: Store, tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        store.place(Input("inputs/file", SHA256), tmp_path)
    assert caught.value.kind == "missing_input" and "inputs/file" in str(caught.value)
