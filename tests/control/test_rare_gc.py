"""The cycle collector of a monitor."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from orchestrator.control.rare_gc import rare_gc


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    gc.enable()


def test_what_is_imported_is_never_looked_through_and_what_comes_later_seldom() -> None:
    before = gc.get_threshold()
    with rare_gc():
        assert not gc.isenabled()
        imported = [[] for _ in range(100)]  # type: ignore[var-annotated]
    assert gc.isenabled() and gc.get_threshold()[0] > 10 * before[0]
    assert gc.get_freeze_count() > len(imported)


def test_garbage_in_cycles_goes_all_the_same() -> None:
    gone: list[bool] = []

    class Node:
        def __init__(self) -> None:
            self.other = self

        def __del__(self) -> None:
            gone.append(True)

    with rare_gc():
        pass
    kept = []
    Node()
    while not gone and len(kept) < 1_000_000:
        kept.append([])  # type: ignore[var-annotated]
    assert gone
