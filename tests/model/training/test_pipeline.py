"""Two stages in one process, with queues between them, against the whole network: with dropout and recompute.

Each has compiled before, as a rank does, or compiles when it comes to it; its link blocks or is queued. It is
compiling that takes the time here: tests that ask for nothing else take the stages that another has compiled.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from copy import copy
from dataclasses import dataclass, replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from model.config.load_config import load_config
from model.data.dataset import Batch
from model.network.build import build, initialise, recompute_blocks
from model.network.dropout import seed_dropout
from model.network.loss import LossCell
from model.parallel.mesh import Groups, Place, Strategy
from model.parallel.p2p import Arrived, QueuedLink, Watch
from model.parallel.pipeline_schedule import Work, schedule
from model.training.gradients import ReduceGradients
from model.training.optimizer import AdamW
from model.training.pipeline import Pipeline, Stage, StepState
from model.training.step import MicroBatches, scalar, split, tensors

CONFIG = load_config(
    "tiny",
    {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "vocab_size": 32,
        "seq_length": 8,
        "hidden_dropout_rate": 0.2,
        "attention_dropout_rate": 0.2,
    },
)
STRATEGY = Strategy(pipeline_stage=2)
TABLE = "embedding.word_embedding.embedding_table"
PARTS = 3


class Mailbox:
    """The blocking link of one rank, over what both share; a stage is only asked to receive what is there."""

    receives_early = False

    def __init__(self, rank, mail):
        self.rank, self.mail = rank, mail
        self.watch = Watch(f"rank {rank}", limit=600)

    def send(self, tensor, rank, what):
        self.mail[self.rank, rank].append(tensor)

    def receive(self, shape, dtype, rank, what):
        tensor = self.mail[rank, self.rank].popleft()
        assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)
        return Arrived(tensor)

    def finish(self):
        pass


class MailQueues:
    """Stands in for a device's queues: what is received is there once its handle was waited for."""

    def __init__(self, rank, mail):
        self.rank, self.mail = rank, mail

    def send(self, tensor, rank):
        self.mail[self.rank, rank].append(tensor)
        return Handle()

    def receive(self, shape, dtype, rank):
        buffer = ops.full(shape, float("nan"), dtype=dtype)
        return buffer, Handle(buffer, self.mail[rank, self.rank])

    def drain(self):
        pass


@dataclass
class Handle:
    buffer: ms.Tensor | None = None
    mail: deque | None = None

    def wait(self):
        if self.buffer is not None:
            self.buffer.assign_value(self.mail.popleft())


def queued(rank, mail):
    return QueuedLink(Watch(f"rank {rank}", limit=600), MailQueues(rank, mail))


def batch():
    random = np.random.default_rng(0)
    ids = random.integers(4, 32, (6, 9)).astype(np.int32)
    weights = random.random((6, 8)).astype(np.float32)
    return Batch(ids[:, :-1], ids[:, 1:], weights / weights.sum())


def part_of(strategy, place):
    """Network, parameters, reduce and dropout_seed of one place."""
    network = build(CONFIG, strategy, place)
    initialise(network, CONFIG, 3, strategy, place)
    dropout_seed = seed_dropout(network, (11,), network.transformer.first_block)
    recompute_blocks(network)
    parameters = AdamW(list(network.trainable_params())).parameters
    return network, parameters, ReduceGradients(parameters, strategy, place, Groups()), dropout_seed


def whole():
    network, parameters, reduce, dropout_seed = part_of(Strategy(), Place(0, 0, 0, 0))
    found = MicroBatches(network, parameters, reduce, PARTS, dropout_seed).gradients(batch(), 1.0)
    return float(found.loss.asnumpy()), named(parameters, found.gradients)


def without_dropout():
    network, *_ = part_of(Strategy(), Place(0, 0, 0, 0))
    return float(LossCell(network.set_train(False))(*tensors(batch())).asnumpy())


def named(parameters, grads):
    """Copies: else what a later step sums in the same place would be seen."""
    return {item.name: grad.asnumpy().copy() for item, grad in zip(parameters, grads, strict=True)}


@dataclass
class Rank:
    """One stage in the middle of a step."""

    pipeline: Pipeline
    step: StepState
    actions: deque

    @property
    def cells(self):
        return [
            cell for cell in (self.pipeline.forward, self.pipeline.backward, self.pipeline.reduced) if cell
        ]

    def state(self):
        """Everything that a step may change, by name."""
        dropout_seed = self.pipeline.stage.dropout_seed
        held = (*self.pipeline.parameters, *self.pipeline.accumulator.sums, dropout_seed.seed)
        return {item.name: item.asnumpy().copy() for item in held} | {"steps": dropout_seed.steps}


def stage_of(rank, mail, link_of):
    place = STRATEGY.place(rank)
    network, parameters, reduce, dropout_seed = part_of(STRATEGY, place)
    stage = Stage(STRATEGY, place, CONFIG, link_of(rank, mail), lambda: None, dropout_seed)
    return in_a_step(rank, Pipeline(network, parameters, reduce, stage, PARTS))


def in_a_step(rank, pipeline):
    step = StepState(pipeline, [tensors(part) for part in split(batch(), PARTS)], 1.0)
    return Rank(pipeline, step, deque(schedule(rank, 2, PARTS, pipeline.stage.link.receives_early)))


def again(pipeline, link, **changed):
    """The stage as it was before its first step, but with all the graphs of its cells."""
    pipeline = copy(pipeline)
    pipeline.stage = replace(pipeline.stage, link=link, **changed)
    pipeline.compiled = set()
    pipeline.accumulator.clear()
    if pipeline.stage.dropout_seed:
        pipeline.stage.dropout_seed.steps = 0
    return in_a_step(pipeline.stage.place.rank, pipeline)


@dataclass
class Ran:
    """What a step of both stages gave."""

    loss: float
    gradients: list
    born: list
    graphs: list  # of each cell: those compiled before, those that there are after the step
    pipelines: list


def two_stages(link_of=Mailbox, compiled=False):
    """Both stages, their schedules taken in turns."""
    mail = defaultdict(deque)
    return in_turns([stage_of(rank, mail, link_of) for rank in range(2)], mail, compiled)


def in_turns(ranks, mail, compiled):
    for rank in ranks:
        before = rank.state()
        if compiled:
            rank.pipeline.compile(rank.step)
        for name, value in rank.state().items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)
        rank.pipeline.stage.dropout_seed.next_step()
    graphs = [set(cell.compile_cache) for rank in ranks for cell in rank.cells]
    while any(rank.actions for rank in ranks):
        for number, rank in enumerate(ranks):
            while rank.actions and not blocked(rank, mail[1 - number, number]):
                rank.step.do(rank.actions.popleft())
    for rank in ranks:
        rank.pipeline.stage.link.finish()
        rank.pipeline.reduced(rank.step.loss, scalar(1.0), scalar(0.0))
    return Ran(
        float(ranks[1].step.loss.asnumpy()),
        [named(rank.pipeline.parameters, rank.pipeline.accumulator.sums) for rank in ranks],
        [flag for rank in ranks for flag in rank.step.born],
        list(zip(graphs, [set(cell.compile_cache) for rank in ranks for cell in rank.cells], strict=True)),
        [rank.pipeline for rank in ranks],
    )


def blocked(rank, inbox):
    """Whether the next action takes a message that is not there."""
    action, step = rank.actions[0], rank.step
    if inbox:
        return False
    if isinstance(step.stage.link, Mailbox):
        return action.work in (Work.RECEIVE_FORWARD, Work.RECEIVE_BACKWARD)
    asked = {Work.FORWARD: step.activations, Work.BACKWARD: step.gradients}.get(action.work, {})
    return action.micro in asked


@pytest.fixture(scope="module")
def both():
    return whole(), two_stages(compiled=True)


def test_two_stages_compute_the_loss_of_the_whole_network(both):
    (expected, _), ran = both
    assert ran.loss == pytest.approx(expected, rel=1e-6)
    assert abs(expected - without_dropout()) > 1e-4
    assert len(ran.born) == 3 * PARTS and not any(float(flag.asnumpy()) for flag in ran.born)


def test_their_gradients_are_its_gradients_and_the_tied_table_s_add_up(both):
    (_, expected), ran = both
    first, last = ran.gradients
    assert set(first) & set(last) == {TABLE} and set(first) | set(last) == set(expected)
    assert "blocks.0.layernorm1.gamma" in first and "blocks.1.layernorm1.gamma" in last
    found = {**first, **last, TABLE: first[TABLE] + last[TABLE]}
    largest = max(np.abs(grad).max() for grad in expected.values())
    for name, grad in expected.items():
        np.testing.assert_allclose(found[name], grad, rtol=1e-5, atol=1e-5 * largest, err_msg=name)


def test_what_is_compiled_before_the_first_message_is_what_runs(both):
    _, ran = both
    assert len(ran.graphs) == 5  # forward, backward and reduce of the first stage; the last has no forward
    for before, after in ran.graphs:
        assert len(before) == 1 and after == before


@pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 compiles in every way (test-long)")
def test_the_time_of_compilation_changes_no_number(both):
    _, expected = both
    assert_same(two_stages(compiled=False), expected)


def test_the_kind_of_link_changes_no_number(both):
    _, expected = both
    mail = defaultdict(deque)
    ranks = [again(one, queued(rank, mail)) for rank, one in enumerate(expected.pipelines)]
    assert all(not np.any(value) for rank in ranks for name, value in rank.state().items() if "accu" in name)
    found = in_turns(ranks, mail, compiled=True)
    assert len(found.born) == 3 * PARTS
    assert_same(found, expected)


def assert_same(found, expected):
    assert found.loss == expected.loss
    for mine, theirs in zip(found.gradients, expected.gradients, strict=True):
        assert set(mine) == set(theirs)
        for name, grad in mine.items():
            np.testing.assert_array_equal(grad, theirs[name], err_msg=name)


class Unfit(nn.Cell):
    """A graph that does not compile."""

    def construct(self, x):
        return ops.reshape(x, (-1, 7, 11))


def test_a_stage_that_does_not_compile_ends_with_its_own_error_and_lets_no_one_think_it_has():
    mail, met = defaultdict(deque), []
    rank = stage_of(0, mail, Mailbox)
    rank.pipeline.stage = Stage(
        STRATEGY, STRATEGY.place(0), CONFIG, Mailbox(0, mail), lambda: met.append(0), None
    )
    rank.pipeline.forward = Unfit()
    with pytest.raises(ValueError, match=r"[Rr]eshape"):
        rank.pipeline.gradients(batch(), 1.0)
    assert not met and not mail and rank.pipeline.stage.link.watch.timer is None


def test_ranks_meet_after_they_have_compiled_and_before_the_first_message(both):
    """Once for batches of one shape; one of another shape is compiled for in the same way."""
    _, ran = both

    class Met(Exception):
        pass

    mail, caches = defaultdict(deque), []

    def barrier():
        caches.append([len(cell.compile_cache) for cell in rank.cells])
        assert rank.pipeline.stage.link.watch.timer is not None and not mail
        raise Met

    rank = again(ran.pipelines[0], Mailbox(0, mail), barrier=barrier, dropout_seed=None)
    whole_batch = batch()
    half = Batch(*(part[:3] for part in (whole_batch.tokens, whole_batch.labels, whole_batch.weights)))
    for one in (whole_batch, half):
        with pytest.raises(Met):
            rank.pipeline.gradients(one, 1.0)
    assert caches == [[1, 1, 1], [2, 2, 1]]
    assert {shape[0] for shape in rank.pipeline.compiled} == {2, 1}
