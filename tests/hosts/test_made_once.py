"""What many threads ask for at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator.hosts.made_once import made_once


def test_threads_that_ask_at_once_get_what_one_of_them_makes() -> None:
    calls: list[str] = []
    others_wait = threading.Event()

    @made_once
    def thing(name: str) -> object:
        calls.append(name)
        others_wait.wait(0.2)  # a second one that makes its own would come in here
        return object()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(thing, ["zip"] * 8))
    assert calls == ["zip"] and len(set(map(id, found))) == 1
    assert thing("other") is not found[0] and calls == ["zip", "other"]


def test_what_could_not_be_made_is_tried_again() -> None:
    tries: list[int] = []

    @made_once
    def thing() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not now")
        return len(tries)

    with pytest.raises(OSError, match="not now"):
        thing()
    assert thing() == thing() == 2
