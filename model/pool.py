"""Work on other processes, a bounded part of it at a time."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from typing import Any, TypeVar

from model.errors import ModelError

__all__ = ["Here", "in_order", "processes", "result_of"]

Result = TypeVar("Result")


class Here(Executor):
    """Does the work at once, in this process."""

    def __init__(self, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        start(*arguments)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def processes(count: int, start: Callable[..., None], arguments: tuple[Any, ...]) -> Executor:
    """`count` fresh processes, each of which calls `start` first; with 0, this one."""
    if count == 0:
        return Here(start, arguments)
    # Not fork: threads of MindSpore and of the tokenizer do not survive one.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, context, initializer=_start, initargs=(start, arguments))


def _start(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    start(*arguments)


def in_order(
    executor: Executor, work: Callable[[Any], Result], items: Iterable[Any], ahead: int
) -> Iterator[Result]:
    """`map` that takes no more than `ahead` items before their results are taken."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(executor.submit(work, item))
        if len(waiting) > ahead:
            yield result_of(waiting.popleft())
    while waiting:
        yield result_of(waiting.popleft())


def result_of(future: Future[Result]) -> Result:
    """Its result; ModelError where its process is gone."""
    try:
        return future.result()
    except BrokenExecutor as error:
        raise ModelError("a worker process died", remedy="is there memory enough? see --workers") from error
