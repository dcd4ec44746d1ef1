"""The links that can be read: what is urgent wakes at once, what can wait is taken together, soon."""

from __future__ import annotations

import math
import threading

from orchestrator.hosts.host_link import Link
from orchestrator.hosts.told_links import ToldLinks
from tests.hosts.push_host import Hands


class Told:
    def __init__(self) -> None:
        self.hands = Hands()
        self.signal = threading.Event()
        self.links = ToldLinks(self.signal, lambda: self.hands.now)
        self.a, self.b = Link("a"), Link("b")

    def take(self) -> list[str]:
        self.signal.clear()
        return [link.name for link in self.links.take()]


def test_what_is_urgent_wakes_and_is_taken_once() -> None:
    told = Told()
    told.links.tell(told.a)
    told.links.tell(told.a)
    assert told.signal.is_set() and told.take() == ["a"] and told.take() == []
    assert told.links.due == math.inf  # nobody has told what can wait: nothing is looked for


def test_only_the_first_of_what_can_wait_wakes() -> None:
    told = Told()
    told.links.tell_calmly(told.a)
    assert told.signal.is_set() and told.take() == ["a"]
    assert told.links.due == told.hands.now + 1.0
    told.links.tell_calmly(told.b)
    told.links.tell_calmly(told.a)
    assert not told.signal.is_set()
    told.hands.passes(1)
    assert told.take() == ["b", "a"] and told.links.due == told.hands.now + 1.0


def test_where_nothing_came_nobody_looks_again_and_the_next_one_wakes() -> None:
    told = Told()
    told.links.tell_calmly(told.a)
    told.take()
    told.hands.passes(1)
    assert told.take() == [] and told.links.due == math.inf
    told.links.tell_calmly(told.a)
    assert told.signal.is_set()


def test_what_is_urgent_wakes_though_the_link_waits_already() -> None:
    told = Told()
    told.links.tell_calmly(told.a)
    told.take()
    told.links.tell_calmly(told.a)
    assert not told.signal.is_set()
    told.links.tell(told.a)
    assert told.signal.is_set() and told.take() == ["a"]


def test_while_somebody_looks_it_is_taken_sooner() -> None:
    told = Told()
    told.links.set_viewers(1)
    told.links.tell_calmly(told.a)
    told.take()
    assert told.links.due == told.hands.now + 0.2


def test_what_comes_while_others_are_taken_wakes_or_is_looked_for() -> None:
    """Who takes says first that it does not look again."""
    told = Told()
    told.links.tell_calmly(told.a)
    told.take()
    told.links.tell_calmly(told.a)
    for _ in told.links.take():
        told.links.tell_calmly(told.b)
    assert told.signal.is_set() and told.take() == ["b"]
