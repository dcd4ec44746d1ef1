"""A stop request: what SIGTERM does to a process that trains, and to those that it has forked off."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from model.training.stop_request import StopRequest
from orchestrator.testing.waiting import eventually


@pytest.fixture
def listening() -> Iterator[Callable[..., StopRequest]]:
    """Requests of this process, that give up soon; afterwards SIGTERM is what it was."""
    before = signal.getsignal(signal.SIGTERM)

    def make(give_up: Callable[[str], None] = lambda text: None, least: float = 0.05) -> StopRequest:
        request = StopRequest(give_up, least=least, look=0.01)
        request.listen()
        return request

    yield make
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, before)


def tell(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


def test_until_it_listens_the_signal_is_not_caught() -> None:
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    with request.during_step():
        pass
    assert signal.getsignal(signal.SIGTERM) is before and not request.asked


def test_a_signal_is_noted_and_a_second_one_is_no_more(listening: Callable[..., StopRequest]) -> None:
    request = listening()
    assert not request.asked
    for _ in range(2):
        tell(os.getpid())
    assert request.asked


def test_a_step_that_does_not_end_is_given_up(listening: Callable[..., StopRequest]) -> None:
    told: list[str] = []
    request = listening(told.append)
    with request.during_step():
        time.sleep(0.1)
        assert not told, "nobody has sent a signal"
        tell(os.getpid())
        eventually(lambda: told, what="the end")
    assert told == ["got SIGTERM, and the step did not end in 0 s: nothing is saved"]


def test_what_is_no_step_may_take_its_time(listening: Callable[..., StopRequest]) -> None:
    """A save may take minutes, also one in which the signal comes."""
    told: list[str] = []
    request = listening(told.append)
    tell(os.getpid())
    time.sleep(0.15)
    with request.during_step():
        request.agree()
        time.sleep(0.15)
    assert request.asked and not told


def test_a_long_step_is_known_to_be_long(listening: Callable[..., StopRequest]) -> None:
    told: list[str] = []
    request = listening(told.append)
    with request.during_step():
        time.sleep(0.2)
    with request.during_step():
        tell(os.getpid())
        time.sleep(0.2)
        request.agree()
    assert not told


def test_a_process_that_was_forked_off_is_ended_and_its_parent_hears_nothing(
    listening: Callable[..., StopRequest],
) -> None:
    told: list[str] = []
    request = listening(told.append)
    ready, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b".")
        threading.Event().wait()
    os.read(ready, 1)
    with request.during_step():
        tell(child)
        assert os.waitpid(child, 0)[1] == signal.SIGTERM
        time.sleep(0.15)
    assert not request.asked and not told
