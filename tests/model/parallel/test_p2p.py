"""Messages between stages: what a device's queues make of them; what is said of one that does not come."""

from __future__ import annotations

import inspect
import threading
from functools import partial
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore.mint import distributed

from model.config.load_config import load_config
from model.devices.device import Device, built_for
from model.parallel.mesh import Strategy
from model.parallel.p2p import (
    AHEAD,
    COMPILATION,
    P2P_GROUP,
    BlockingLink,
    QueuedLink,
    Queues,
    Watch,
    open_link,
)
from model.parallel.pipeline_schedule import Work, schedule
from model.training.pipeline import Stage, StepState
from tests.model.support.queues import Deadlock, Tensor, World

SHAPES = [(stages, micro) for stages in range(2, 7) for micro in range(1, 9)]
CONFIG = load_config("tiny", {"hidden_size": 16, "num_layers": 6, "num_heads": 2, "vocab_size": 32})
WITHOUT_END = 1e6  # seconds


class Compute:
    """A stage's graphs: what they compute is known by its name, and they look at what they get."""

    def __init__(self, device, strategy):
        self.device, self.strategy = device, strategy
        self.went = {"forward": 0, "backward": 0}

    def forward(self, x):
        y, micro = Tensor(), self._next("forward")
        self.device.compute(partial(self._do, "activations", micro, self.device.rank - 1, x, y))
        return y, 0.0

    def backward(self, x, *others):
        last = self.device.rank == self.strategy.pipeline_stage - 1
        dx, micro = Tensor(), self._next("backward")
        self.device.compute(partial(self._do, "activations", micro, self.device.rank - 1, x, Tensor()))
        if not last:
            self.device.compute(partial(self._do, "gradients", micro, self.device.rank + 1, others[0], dx))
        else:
            self.device.compute(partial(setattr, dx, "content", ("gradients", micro, self.device.rank)))
        if last:
            return dx, 0.0, 0.0
        return 0.0 if self.device.rank == 0 else (dx, 0.0)

    def _next(self, kind):
        self.went[kind] += 1
        return self.went[kind] - 1

    def _do(self, kind, micro, sender, x, y):
        if isinstance(x, Tensor):  # the first stage's ids come from no stage
            assert x.content == (kind, micro, sender)
        y.content = (kind, micro, self.device.rank)


def step_of(device, strategy, micro_batches, link):
    compute = Compute(device, strategy)
    place = strategy.place(device.rank)
    stage = Stage(strategy, place, CONFIG, link, barrier=lambda: None)
    pipeline = SimpleNamespace(stage=stage, forward=compute.forward, backward=compute.backward)
    ids = ms.Tensor(np.zeros((1, 4), np.int32))
    step = StepState(pipeline, [(ids, None, None)] * micro_batches, 1.0)
    step.loss = 0.0
    return step


def run(stages, micro_batches, link_class=QueuedLink, actions_of=None, graphs_wait=False):
    """One step of all stages over simulated queues."""
    world, strategy = World(stages, graphs_wait), Strategy(pipeline_stage=stages)
    actions_of = actions_of or partial(schedule, receives_early=True)

    def program(step, link):
        for action in actions_of(step.stage.place.pp, stages, micro_batches):
            step.do(action)
            assert len(link.pending) <= 3  # one that is asked for early, and one sent on each side
        link.finish()

    programs, links = [], []
    for device in world.devices:
        link = link_class(Watch(f"rank {device.rank}", WITHOUT_END), device)
        links.append(link)
        programs.append(partial(program, step_of(device, strategy, micro_batches, link), link))
    world.run(programs)
    return world, links


@pytest.mark.parametrize("graphs_wait", [False, True], ids=["", "graphs wait for messages"])
@pytest.mark.parametrize(("stages", "micro_batches"), SHAPES)
def test_queued_messages_arrive_in_time_and_no_stage_waits_for_ever(stages, micro_batches, graphs_wait):
    world, links = run(stages, micro_batches, graphs_wait=graphs_wait)
    handles = [handle for device in world.devices for handle in device.all_messages]
    assert len(handles) == 4 * (stages - 1) * micro_batches
    assert all(handle.is_through and handle.waits == 1 for handle in handles)
    assert all(device.computed == device.asked > 0 for device in world.devices)
    assert not any(link.pending or link.awaited or link.watch.timer for link in links)


def gradients_before_activations(stage, stages, micro_batches):
    """Asks for the gradients before the activations are sent for which they are the gradients."""
    actions = list(schedule(stage, stages, micro_batches, receives_early=True))
    for place, action in enumerate(actions):
        if action.work is Work.RECEIVE_BACKWARD and place and actions[place - 1].work is Work.SEND_FORWARD:
            actions[place - 1 : place + 1] = [action, actions[place - 1]]
    return actions


def test_the_simulation_sees_a_deadlock():
    with pytest.raises(Deadlock):
        run(3, 4, actions_of=gradients_before_activations)


class Hasty(QueuedLink):
    def wait_for(self, message):
        pass


class Forgetful(QueuedLink):
    def send(self, tensor, rank, what):
        self.queues.send(tensor, rank)


@pytest.mark.parametrize("careless", [Hasty, Forgetful])
def test_the_simulation_sees_what_is_used_too_early_or_let_go_too_soon(careless):
    with pytest.raises(AssertionError):
        run(2, 3, careless)


@pytest.mark.parametrize(("stages", "micro_batches"), SHAPES)
def test_early_receives_leave_the_order_of_messages(stages, micro_batches):
    computes = (Work.FORWARD, Work.BACKWARD)
    for stage in range(stages):
        late, early = (
            list(schedule(stage, stages, micro_batches, receives_early)) for receives_early in (False, True)
        )
        assert [one for one in late if one.work not in computes] == [
            one for one in early if one.work not in computes
        ]
        assert [one for one in late if one.work in computes] == [one for one in early if one.work in computes]
        if stage > 0 and micro_batches > stages - stage:
            assert early != late


def test_the_next_activations_travel_during_the_backward_pass():
    actions = list(schedule(1, 3, 4, receives_early=True))
    for place, action in enumerate(actions):
        if action.work is Work.RECEIVE_FORWARD and action.micro >= 2:
            assert actions[place + 1].work is Work.BACKWARD


class Stuck:
    """A device where a message never comes; a process that waits is let go when it is given up."""

    def __init__(self, blocking):
        self.blocking, self.let_go = blocking, threading.Event()

    def send(self, tensor, rank):
        return self._handle("send")

    def receive(self, shape, dtype, rank):
        return None, self._handle("receive")

    def drain(self):
        self._block("drain")

    def _handle(self, call):
        self._block(call)
        return SimpleNamespace(wait=lambda: None)

    def _block(self, call):
        if call == self.blocking:
            assert self.let_go.wait(60)


def link_of(stuck, told):
    def give_up(message):
        told.append(message)
        stuck.let_go.set()

    return QueuedLink(Watch("rank 1 (stage 1)", 0.2, give_up), stuck)


@pytest.mark.parametrize(
    ("blocking", "what"),
    [
        ("send", "sending the activations of micro batch 0 to rank 2"),
        ("receive", "waiting for the gradients of micro batch 0 from rank 2"),
    ],
)
def test_a_call_that_does_not_return_is_given_up(blocking, what):
    told, stuck = [], Stuck(blocking)
    link = link_of(stuck, told)
    link.send(None, 2, "the activations of micro batch 0")
    link.receive((1,), ms.float32, 2, "the gradients of micro batch 0")
    link.finish()
    assert told[0] == f"rank 1 (stage 1): 0.2 s {what} in vain"


def test_a_device_that_does_not_get_on_is_given_up_with_all_that_may_be_the_cause():
    told, stuck = [], Stuck("drain")
    link = link_of(stuck, told)
    link.send(None, 2, "the activations of micro batch 0")
    link.receive((1,), ms.float32, 2, "the gradients of micro batch 0").take()
    link.finish()
    assert told == [
        "rank 1 (stage 1): 0.2 s sending the activations of micro batch 0 to rank 2, "
        "or waiting for the gradients of micro batch 0 from rank 2 in vain"
    ]


def test_a_process_is_not_far_ahead_of_its_device():
    """Else the last wait would be for a whole step, however many messages have come in time meanwhile."""
    drained, stuck = [], Stuck(None)
    stuck.drain = lambda: drained.append(number)
    link = link_of(stuck, [])
    for number in range(3 * AHEAD + 1):
        link.receive((1,), ms.float32, 0, f"the activations of micro batch {number}").take()
    assert drained == [AHEAD, 2 * AHEAD, 3 * AHEAD]
    link.finish()


def test_a_process_that_does_not_come_to_its_next_message_is_given_up():
    """As where what it puts into a queue finds no room, since the device waits for a message."""
    told, stuck = [], Stuck(None)
    link = link_of(stuck, told)
    link.receive((1,), ms.float32, 0, "the activations of micro batch 0").take()
    assert stuck.let_go.wait(60)
    assert told == [
        "rank 1 (stage 1): 0.2 s waiting for the activations of micro batch 0 from rank 0 in vain"
    ]
    link.finish()


def test_the_wait_for_compilation_is_longer_and_named():
    told, given_up = [], threading.Event()

    def give_up(message):
        told.append(message)
        given_up.set()

    with Watch("rank 0", 0.02, give_up).over_compilation():
        assert given_up.wait(60)
    assert told == [f"rank 0: {0.02 * COMPILATION:g} s waiting for the other stages to compile in vain"]


def test_what_ends_in_time_is_not_given_up():
    told = []
    watch = Watch("rank 0", WITHOUT_END, told.append)
    with watch.over("waiting"):
        timer = watch.timer
    timer.join(60)  # cancelled
    assert not timer.is_alive() and not told and watch.timer is None


@pytest.mark.parametrize(
    ("device", "kind"), [(Device("CPU"), BlockingLink), (Device("Ascend", "ascend910b"), QueuedLink)]
)
def test_a_device_with_queues_uses_them(device, kind):
    with built_for(device):
        assert type(open_link("rank 0", 1.0)) is kind


def test_mindspore_takes_what_the_queues_hand_it():
    """They run on a device only; what is put into the queues stands in for it everywhere else."""
    inspect.signature(distributed.isend).bind(None, dst=1, group=P2P_GROUP)
    inspect.signature(distributed.irecv).bind(None, src=1, group=P2P_GROUP)
    Queues().drain()


class Noted:
    """Queues that note which messages were waited for."""

    def __init__(self):
        self.waited = []

    def send(self, tensor, rank):
        return SimpleNamespace(wait=partial(self.waited.append, f"to {rank}"))

    def receive(self, shape, dtype, rank):
        return None, SimpleNamespace(wait=partial(self.waited.append, f"from {rank}"))

    def drain(self):
        pass


def test_taking_a_message_twice_waits_for_no_later_one():
    queues, watch = Noted(), Watch("rank 1", WITHOUT_END)
    link = QueuedLink(watch, queues)
    first = link.receive((1,), ms.float32, 0, "a")
    link.send(None, 2, "x")
    link.send(None, 2, "y")  # so the first message and x are waited for
    link.receive((1,), ms.float32, 3, "b")
    first.take()
    assert queues.waited == ["from 0", "to 2"]
    link.finish()
    assert queues.waited == ["from 0", "to 2", "to 2", "from 3"]
