"""Two stages in one process, joined by queues, against the whole network: with dropout and recompute."""

from __future__ import annotations

from collections import defaultdict, deque

import mindspore as ms
import numpy as np
import pytest

from model.bloom import build, initialise, recompute_blocks
from model.config import load_config
from model.data import Batch
from model.dropout import replay_dropout
from model.gradients import JoinGradients
from model.loss import LossCell
from model.optimizer import AdamW
from model.parallel import Groups, Place, Strategy
from model.schedule_1f1b import Work, schedule
from model.stage_pipeline import Pipeline, Stage, StepState
from model.step import MicroBatches
from model.tensors import scalar, split, tensors

ms.set_context(mode=ms.GRAPH_MODE)
ms.set_device("CPU")

CONFIG = load_config(
    "tiny",
    {
        "hidden_size": 16,
        "num_layers": 3,
        "num_heads": 2,
        "vocab_size": 32,
        "seq_length": 8,
        "hidden_dropout_rate": 0.2,
        "attention_dropout_rate": 0.2,
    },
)
STRATEGY = Strategy(pipeline_stage=2)
TABLE = "transformer.embedding.word_embedding.embedding_table"
PARTS = 3


class Queues:
    """The link of one rank, over what both share; a stage is only asked to receive what is there."""

    def __init__(self, rank, mail):
        self.rank, self.mail = rank, mail

    def send(self, tensor, rank, what):
        self.mail[self.rank, rank].append(tensor)

    def receive(self, shape, dtype, rank, what):
        tensor = self.mail[rank, self.rank].popleft()
        assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)
        return tensor

    def settle(self):
        pass


def batch():
    random = np.random.default_rng(0)
    ids = random.integers(4, 32, (6, 9)).astype(np.int32)
    weights = random.random((6, 8)).astype(np.float32)
    return Batch(ids[:, :-1], ids[:, 1:], weights / weights.sum())


def part_of(strategy, place):
    """Network, parameters, join and replays of one place."""
    network = build(CONFIG, strategy, place)
    initialise(network, CONFIG, 3, strategy, place)
    replays = replay_dropout(network, (11,), network.transformer.first_block)
    recompute_blocks(network)
    parameters = AdamW(list(network.trainable_params())).parameters
    return network, parameters, JoinGradients(parameters, strategy, place, Groups()), replays


def whole():
    network, parameters, join, replays = part_of(Strategy(), Place(0, 0, 0, 0))
    (loss, _, grads), _ = MicroBatches(network, parameters, join, PARTS, replays).gradients(batch(), 1.0)
    return float(loss.asnumpy()), named(parameters, grads)


def without_dropout():
    network, *_ = part_of(Strategy(), Place(0, 0, 0, 0))
    return float(LossCell(network.set_train(False))(*tensors(batch())).asnumpy())


def named(parameters, grads):
    return {item.name: grad.asnumpy() for item, grad in zip(parameters, grads, strict=True)}


def two_stages():
    """Loss, gradients and flags of both stages, their schedules taken in turns."""
    mail, pipelines, steps, todo = defaultdict(deque), [], [], []
    for rank in range(2):
        place = STRATEGY.place(rank)
        network, parameters, join, replays = part_of(STRATEGY, place)
        stage = Stage(STRATEGY, place, CONFIG, Queues(rank, mail), replays)
        pipelines.append(Pipeline(network, parameters, join, stage, PARTS))
        replays.next_step()
        micro_batches = [tensors(part) for part in split(batch(), PARTS)]
        steps.append(StepState(pipelines[rank], micro_batches, 1.0))
        todo.append(deque(schedule(rank, 2, PARTS)))
    while any(todo):
        for rank in range(2):
            while todo[rank] and not blocked(todo[rank][0], mail[1 - rank, rank]):
                steps[rank].do(todo[rank].popleft())
    for pipeline, step in zip(pipelines, steps, strict=True):
        pipeline.joined(step.loss, scalar(1.0))
    found = [named(pipeline.parameters, pipeline.accumulator.sums) for pipeline in pipelines]
    return float(steps[1].loss.asnumpy()), found, [flag for step in steps for flag in step.born]


def blocked(action, inbox):
    return action.work in (Work.RECEIVE_FORWARD, Work.RECEIVE_BACKWARD) and not inbox


@pytest.fixture(scope="module")
def both():
    return whole(), two_stages()


def test_two_stages_compute_the_loss_of_the_whole_network(both):
    (expected, _), (loss, _, born) = both
    assert loss == pytest.approx(expected, rel=1e-6)
    assert abs(expected - without_dropout()) > 1e-4
    assert len(born) == 3 * PARTS and not any(float(flag.asnumpy()) for flag in born)


def test_their_gradients_are_its_gradients_and_the_tied_table_s_add_up(both):
    (_, expected), (_, (first, last), _) = both
    assert set(first) & set(last) == {TABLE} and set(first) | set(last) == set(expected)
    assert (
        "transformer.blocks.1.layernorm1.gamma" in first and "transformer.blocks.2.layernorm1.gamma" in last
    )
    found = {**first, **last, TABLE: first[TABLE] + last[TABLE]}
    largest = max(np.abs(grad).max() for grad in expected.values())
    for name, grad in expected.items():
        np.testing.assert_allclose(found[name], grad, rtol=1e-5, atol=1e-5 * largest, err_msg=name)
