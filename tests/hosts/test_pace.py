"""The pace of work on many hosts: room is found, lost and found again, and a hanging host holds up nobody."""

from __future__ import annotations

import heapq
import threading
from itertools import count

import pytest

from orchestrator.hosts.pace import Gate, Pace, Ticket
from orchestrator.hosts.scheduling import SYSTEM


class Server:
    """An sshd that takes `room` logins at once, each `seconds` long, and drops the others after `knock`.

    Plays them against a pace until all hosts are in, each dropped one coming back after `pause`.
    """

    def __init__(self, room: int, seconds: float = 0.2, knock: float = 0.01, pause: float = 1.0) -> None:
        self.room, self.seconds, self.knock, self.pause = room, seconds, knock, pause
        self.drops: dict[str, int] = {}
        self.limits: list[float] = []
        self.now = 0.0

    def log_in(self, pace: Pace, hosts: list[str], silent: int = 0, always_drop: int = 0) -> float:
        """The seconds until all are in but the silent ones (first) and those that always drop (next)."""
        order = count()
        events: list[tuple[float, int, str, str, Ticket | None]] = []
        waiting = list(hosts)
        never, bad = set(hosts[:silent]), set(hosts[silent : silent + always_drop])
        inside, left = 0, set(hosts) - never - bad
        while left:
            while waiting and pace.wait(self.now) == 0.0:
                host = waiting.pop(0)
                ticket = pace.begin(self.now)
                if host in never:
                    continue
                is_dropped = host in bad or inside >= self.room
                inside += not is_dropped
                after = self.knock if is_dropped else self.seconds
                kind = "drop" if is_dropped else "in"
                heapq.heappush(events, (self.now + after, next(order), kind, host, ticket))
            lapse = pace.wait(self.now) if waiting else None
            if not events or (lapse and self.now + lapse < events[0][0]):
                assert lapse, "nothing can happen any more"
                self.now += lapse
                continue
            self.now, _, kind, host, ticket = heapq.heappop(events)
            if kind == "again":
                waiting.insert(0, host)
            elif kind == "in" and ticket:
                inside -= 1
                pace.done(ticket, self.now)
                left.discard(host)
            elif ticket:
                pace.dropped(ticket, self.now, again=host in self.drops)
                self.drops[host] = self.drops.get(host, 0) + 1
                if self.drops[host] < 6:
                    heapq.heappush(events, (self.now + self.pause, next(order), "again", host, None))
            self.limits.append(pace.limit)
            assert pace.limit >= 1
        return self.now


NAMES = [f"h{number}" for number in range(200)]


def test_all_begin_at_once_where_there_is_room() -> None:
    server = Server(room=1000)
    assert server.log_in(Pace(32, 64), NAMES) <= 5 * server.seconds
    assert not server.drops and max(server.limits) == 64


@pytest.mark.parametrize("room", [1, 3, 10])
def test_a_server_with_little_room_is_used_and_not_beset(room: int) -> None:
    server = Server(room)
    took = server.log_in(Pace(32, 64), NAMES)
    # As much as it can do takes 200 / room logins one after the other.
    assert took < 3 * len(NAMES) / room * server.seconds + 5
    assert sum(server.drops.values()) < len(NAMES)
    assert max(server.drops.values()) < 6, "nobody has run out of tries"
    assert max(server.limits[50:]) <= 2 * room + 3


def test_room_that_comes_back_is_found_again() -> None:
    server, pace = Server(room=2), Pace(32, 64)
    server.log_in(pace, NAMES[:40])
    assert pace.limit < 6
    server.room = 1000
    server.log_in(pace, NAMES)
    assert pace.limit > 15


def test_drops_of_one_moment_count_once_and_the_rest_tells_how_many_fit() -> None:
    pace = Pace(32, 64)
    tickets = [pace.begin(0.0) for _ in range(24)]
    for number, ticket in enumerate(tickets[3:]):
        pace.dropped(ticket, 0.1 + number / 1000)
    assert pace.limit == 3
    for ticket in tickets[:3]:
        pace.done(ticket, 0.3)
    for _ in range(20):
        pace.done(pace.begin(0.4), 0.6)
    assert pace.limit == 3, "one after the other they tell nothing of room for more"
    for _ in range(4):
        for ticket in [pace.begin(1.0), pace.begin(1.0), pace.begin(1.0)]:
            pace.done(ticket, 1.2)
    assert 3.4 < pace.limit < 5


def test_it_never_falls_below_one() -> None:
    pace = Pace(4, 8)
    for now in range(20):
        pace.dropped(pace.begin(float(now)), now + 0.5)
        assert pace.limit >= 1
    assert pace.wait(30.0) == 0.0


def test_hosts_that_drop_everybody_do_not_slow_the_others_down() -> None:
    good, mixed = Server(room=1000), Server(room=1000)
    alone = good.log_in(Pace(32, 64), NAMES[10:])
    among = mixed.log_in(Pace(32, 64), NAMES, always_drop=10)
    assert among < alone + 3


def test_hosts_that_never_answer_do_not_hold_up_the_others() -> None:
    """The first of all are silent, and as many as may be under way at once."""
    server = Server(room=1000)
    took = server.log_in(Pace(32, 64, patience=2.0), NAMES, silent=40)
    assert took < 2 * 2.0 + 8 * server.seconds


def test_where_all_take_long_nobody_is_taken_to_hang() -> None:
    pace = Pace(2, 2, patience=2.0)
    for _ in range(8):
        pace.done(pace.begin(0.0), 5.0)
    assert pace.patience == 20.0
    pace.begin(10.0), pace.begin(10.0)
    assert pace.wait(15.0) == pytest.approx(15.0)


def test_what_ends_without_news_gives_its_place_back() -> None:
    pace = Pace(1, 4)
    ticket = pace.begin(0.0)
    assert pace.wait(0.0) != 0.0
    pace.leave(ticket)
    assert pace.wait(0.0) == 0.0 and pace.limit == 1
    pace.done(ticket, 1.0)
    pace.dropped(ticket, 1.0)
    assert pace.limit == 1


def test_threads_are_let_in_in_turn() -> None:
    gate, inside, most = Gate(Pace(2, 2), SYSTEM), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with gate.turn():
            with lock:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.01)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
        assert not each.is_alive()
    assert most == 2


def test_who_is_not_wanted_any_more_does_not_wait_and_leaves_the_others_their_turn() -> None:
    gate, is_wanted = Gate(Pace(1, 1, patience=60.0), SYSTEM), threading.Event()
    is_wanted.set()
    passed: list[str] = []

    def work(name: str, wanted: threading.Event | None) -> None:
        with gate.turn(is_wanted=lambda: wanted is None or wanted.is_set()):
            passed.append(name)

    with gate.turn():
        threads = [
            threading.Thread(target=work, args=args) for args in (("closed", is_wanted), ("next", None))
        ]
        for each in threads:
            each.start()
        is_wanted.clear()
        threads[0].join(60)
        assert passed == ["closed"]
    threads[1].join(60)
    assert passed == ["closed", "next"]


def test_an_error_tells_of_room_only_where_it_was_a_drop() -> None:
    pace = Pace(8, 8)
    gate = Gate(pace, SYSTEM)
    for error in (KeyError(), ValueError()):
        with pytest.raises(type(error)), gate.turn(is_dropped=lambda found: isinstance(found, ValueError)):
            raise error
        assert (pace.limit < 8) == isinstance(error, ValueError)
    assert pace.counted(SYSTEM.monotonic()) == 0
