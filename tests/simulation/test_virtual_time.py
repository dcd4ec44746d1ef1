"""Virtual time: one thread at a time, in the same order every time, and no time passes but the world's."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import pytest

from orchestrator.simulation.timeline import EPOCH, SimulationError
from orchestrator.simulation.virtual_scheduling import VirtualScheduling
from orchestrator.simulation.virtual_time import Deadlock, Process, World


def test_a_day_of_sleep_takes_no_time() -> None:
    world = World()
    clock = VirtualScheduling(world)

    def main() -> float:
        for _ in range(24):
            clock.sleep(3600.0)
        return clock.time()

    begun = time.monotonic()
    assert world.run(main) == EPOCH + 24 * 3600.0
    assert time.monotonic() - begun < 5.0


def test_a_pool_does_so_much_at_a_time_and_keeps_the_order() -> None:
    world = World()
    clock = VirtualScheduling(world)
    running: list[int] = []
    most = 0

    def work(number: int) -> int:
        nonlocal most
        running.append(number)
        most = max(most, len(running))
        clock.sleep(10.0 - number)
        running.remove(number)
        return number * number

    def main() -> tuple[list[int], float]:
        return clock.pool(3).each(work, range(6)), clock.monotonic()

    # 10, 9 and 8 s side by side, then 7 from 8 on, 6 from 9 on, 5 from 10 on.
    assert world.run(main) == ([0, 1, 4, 9, 16, 25], 15.0)
    assert most == 3


def test_the_first_error_of_a_pool_is_raised_when_all_are_done() -> None:
    world = World()
    clock = VirtualScheduling(world)
    done: list[int] = []

    def work(number: int) -> None:
        clock.sleep(5.0 - number)
        done.append(number)
        if number in (1, 2):
            raise ValueError(number)

    def main() -> None:
        clock.pool(9).each(work, range(4))

    with pytest.raises(ValueError, match="1"):
        world.run(main)
    assert done == [3, 2, 1, 0]


def test_a_signal_wakes_who_waits_and_a_wait_ends_in_time() -> None:
    world = World()
    clock = VirtualScheduling(world)
    seen: list[tuple[str, float]] = []

    def main() -> None:
        signal = clock.signal()
        clock.pool(1).submit(lambda: (clock.sleep(3.0), signal.set()))
        assert not signal.wait(2.0)
        seen.append(("late", clock.monotonic()))
        assert signal.wait(10.0)
        seen.append(("set", clock.monotonic()))
        signal.clear()
        assert not signal.is_set()

    world.run(main)
    assert seen == [("late", 2.0), ("set", 3.0)]


def test_what_is_closed_begins_nothing_and_cancels_what_waits() -> None:
    world = World()
    clock = VirtualScheduling(world)
    begun: list[int] = []

    def main() -> None:
        pool = clock.pool(1)
        clock.pool(1).submit(lambda: (clock.sleep(1.0), pool.close()))
        with pytest.raises(CancelledError):
            pool.each(lambda number: (begun.append(number), clock.sleep(2.0)), range(3))
        with pytest.raises(RuntimeError):
            pool.submit(begun.append, 9)

    world.run(main)
    assert begun == [0]


def test_everybody_waiting_for_nothing_is_an_error_that_names_them() -> None:
    world = World()
    clock = VirtualScheduling(world)

    def main() -> None:
        signal = clock.signal()
        clock.pool(1).submit(signal.wait)
        clock.sleep(1.0)
        clock.signal().wait()

    with pytest.raises(Deadlock, match=r"main \(a signal\), worker 1 \(a signal\)"):
        world.run(main)


def test_a_thread_that_waits_outside_the_world_is_found() -> None:
    world = World(stuck=0.2)
    clock = VirtualScheduling(world)
    never = threading.Event()

    def outside() -> None:
        never.wait(20.0)

    def main() -> None:
        clock.pool(1).submit(outside)
        clock.sleep(1.0)

    with pytest.raises(SimulationError, match=r"never\.wait"):
        world.run(main)
    never.set()


def test_a_simulation_ends_with_its_real_time() -> None:
    world = World(limit=0.2)
    clock = VirtualScheduling(world)

    def main() -> None:
        while True:
            clock.sleep(1.0)

    with pytest.raises(SimulationError, match=r"0\.2 s of real time are over"):
        world.run(main)


def test_an_error_of_an_event_or_a_thread_ends_the_simulation() -> None:
    def main(world: World, clock: VirtualScheduling, is_event: bool) -> None:
        if is_event:
            world.after(1.0, lambda: {}["none"])  # type: ignore[misc]
        else:
            world.spawn("other", lambda: {}["none"])  # type: ignore[misc]
        clock.sleep(2.0)

    for is_event in (True, False):
        world = World()
        with pytest.raises(KeyError):
            world.run(lambda world=world, is_event=is_event: main(world, VirtualScheduling(world), is_event))  # type: ignore[misc]


def test_a_killed_process_ends_where_it_waits_and_tells_no_time() -> None:
    world = World()
    process = Process("monitor")
    mine, others = VirtualScheduling(world, process), VirtualScheduling(world)
    seen: list[str] = []

    def live() -> None:
        try:
            while True:
                mine.sleep(1.0)
                seen.append(f"awake at {mine.monotonic():g}")
        finally:
            with pytest.raises(BaseException, match="monitor"):
                mine.time()
            seen.append("gone")

    def main() -> None:
        process.on_kill.append(lambda: seen.append("told"))
        world.spawn("monitor", live, process)
        others.sleep(2.5)
        world.kill(process)
        others.sleep(5.0)

    world.run(main)
    assert seen == ["awake at 1", "awake at 2", "told", "gone"]


def test_a_jump_brings_what_has_a_date_and_leaves_timers_alone() -> None:
    world = World()
    clock = VirtualScheduling(world)
    seen: list[tuple[str, float, float]] = []

    def note(what: str) -> None:
        seen.append((what, world.now, world.true_now))

    def main() -> None:
        world.after(5.0, lambda: note("timer"))
        world.at(1000.0, lambda: note("date"))
        clock.sleep(1.0)
        with pytest.raises(SimulationError):
            world.jump(1000.0)
        world.jump(990.0)
        clock.sleep(20.0)

    world.run(main)
    assert seen == [("timer", 5.0, 995.0), ("date", 10.0, 1000.0)]
    assert [world.true_time(clock) for clock in (0.5, 2.0)] == [0.5, 992.0]


def test_the_same_threads_run_in_the_same_order_every_time() -> None:
    def order(seed: int) -> list[tuple[int, float]]:
        world = World(seed=seed)
        clock = VirtualScheduling(world)
        seen: list[tuple[int, float]] = []

        def work(number: int) -> None:
            for _ in range(20):
                clock.sleep(world.random.random())
                seen.append((number, clock.monotonic()))

        def main() -> None:
            clock.pool(16).each(work, range(40))

        world.run(main)
        return seen

    assert order(7) == order(7)
    assert order(7) != order(8)
