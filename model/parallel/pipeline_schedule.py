"""The 1F1B schedule: in which order a pipeline stage computes, sends and receives in one step.

"Memory-Efficient Pipeline-Parallel DNN Training" (Narayanan et al., 2021), without its interleaved stages.

A stage runs ahead by as many micro batches as there are stages behind it, then alternates, then finishes.
So it keeps the inputs of at most `stages - stage` micro batches, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

__all__ = ["Action", "Work", "schedule"]


class Work(Enum):
    """What a stage does with a micro batch."""

    RECEIVE_FORWARD = "receives the activations"
    FORWARD = "computes forward"
    SEND_FORWARD = "sends the activations"
    RECEIVE_BACKWARD = "receives the gradients"
    BACKWARD = "computes backward"
    SEND_BACKWARD = "sends the gradients"


@dataclass(frozen=True, slots=True)
class Action:
    """One entry of a schedule."""

    work: Work
    micro: int


def schedule(stage: int, stages: int, micro_batches: int, receives_early: bool = False) -> Iterator[Action]:
    """All of one step for `stage`.

    Neighbours agree on the order even where a send only returns once it is received: between two backward
    passes a stage first receives the next activations and then sends its gradients, which is what the stage
    before it waits for in that order.

    With `receives_early` it asks for these before the backward pass instead of after it, so that they travel
    meanwhile. All messages keep their order: to ask for others sooner would let neighbours wait for each
    other, or hold a message up behind a later one.
    """
    ahead = min(stages - 1 - stage, micro_batches)
    for micro in range(ahead):
        yield from _receive(stage, micro)
        yield from _compute_forward(stage, stages, micro)
    if ahead < micro_batches:
        yield from _receive(stage, ahead)
    for micro in range(ahead, micro_batches):
        yield from _compute_forward(stage, stages, micro)
        back = micro - ahead
        following = list(_receive(stage, micro + 1)) if micro + 1 < micro_batches else []
        yield from _receive_backward(stage, stages, back)
        if receives_early:
            yield from following
        yield Action(Work.BACKWARD, back)
        if not receives_early:
            yield from following
        yield from _send_backward(stage, back)
    for micro in range(micro_batches - ahead, micro_batches):
        yield from _receive_backward(stage, stages, micro)
        yield Action(Work.BACKWARD, micro)
        yield from _send_backward(stage, micro)


def _receive(stage: int, micro: int) -> Iterator[Action]:
    if stage > 0:
        yield Action(Work.RECEIVE_FORWARD, micro)


def _compute_forward(stage: int, stages: int, micro: int) -> Iterator[Action]:
    yield Action(Work.FORWARD, micro)
    if stage < stages - 1:
        yield Action(Work.SEND_FORWARD, micro)


def _receive_backward(stage: int, stages: int, micro: int) -> Iterator[Action]:
    if stage < stages - 1:
        yield Action(Work.RECEIVE_BACKWARD, micro)


def _send_backward(stage: int, micro: int) -> Iterator[Action]:
    if stage > 0:
        yield Action(Work.SEND_BACKWARD, micro)
