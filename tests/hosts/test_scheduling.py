"""The machine's own clocks and threads, as the control node uses them."""

from __future__ import annotations

import threading

import pytest

from orchestrator.hosts.scheduling import SYSTEM


def test_results_come_in_the_order_of_the_items() -> None:
    pool = SYSTEM.pool(3)
    assert pool.each(lambda number: number * number, range(20)) == [number * number for number in range(20)]
    pool.close()


def test_the_first_error_is_raised() -> None:
    pool = SYSTEM.pool(2)
    with pytest.raises(ZeroDivisionError):
        pool.each(lambda number: 1 // number, [1, 0, 2])
    pool.close()


def test_no_more_work_is_begun_at_once_than_there_is_room() -> None:
    pool, gate, done = SYSTEM.pool(2), threading.Event(), threading.Semaphore(0)
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        gate.wait(60)
        done.release()

    for number in range(5):
        pool.submit(work, number)
    assert not gate.wait(0.05)
    assert len(begun) <= 2
    gate.set()
    for _ in range(5):
        assert done.acquire(timeout=60)
    assert begun == [0, 1, 2, 3, 4]
    pool.close()


def test_a_signal_wakes_who_waits_for_it() -> None:
    signal, pool = SYSTEM.signal(), SYSTEM.pool(1)
    pool.submit(signal.set)
    assert signal.wait(60)
    signal.clear()
    assert not signal.wait(0)
    pool.close()
