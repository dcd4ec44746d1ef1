"""Which way of computing gradients a job asks for, and which optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import mindspore as ms
import numpy as np
from mindspore import nn

from model.bloom import recompute_blocks
from model.config import BloomConfig
from model.dropout import Replays, replay_dropout
from model.dropout_check import prove_dropout
from model.gradients import JoinGradients
from model.link import open_link
from model.optimizer import AdamW
from model.optimizer_shard import ShardedAdamW
from model.sequence import cut_sequence
from model.session import Session
from model.settings import Settings, Train
from model.stage_pipeline import Pipeline, Stage
from model.step import GradientSource, MicroBatches, WholeBatch

__all__ = ["gradient_source", "optimizer_for"]


def gradient_source(
    settings: Settings,
    config: BloomConfig,
    session: Session,
    network: nn.Cell,
    parameters: ms.ParameterTuple,
    done: int = 0,
    prove: Callable[[Replays], None] = prove_dropout,
) -> GradientSource:
    """One graph for a whole batch, or micro batches, or a stage of a pipeline; `done` steps lie behind.

    `prove` draws some masks on the device; ModelError where training could not rely on them.
    """
    strategy, place, train = session.strategy, session.place, settings.train
    parts = train.gradient_accumulation * settings.parallel.micro_batch_num
    if strategy.use_seq_parallel:
        cut_sequence(network, strategy, place, session.groups)
    # A resumed run has to drop what it would have dropped, and what is computed twice the same.
    first_block = network.transformer.first_block
    replays = replay_dropout(network, _dropout_base(train, session), first_block)
    if replays:
        prove(replays)
        replays.steps = done
    if train.recompute:
        recompute_blocks(network)
    join = JoinGradients(parameters, strategy, place, session.groups)
    if strategy.pipeline_stage > 1:
        link = open_link(strategy.names((place.rank,)), settings.parallel.link_timeout)
        barrier = partial(session.gather, np.zeros(1, np.float32))
        stage = Stage(strategy, place, config, link, barrier, replays)
        return Pipeline(network, parameters, join, stage, parts)
    if parts > 1:
        return MicroBatches(network, parameters, join, parts, replays)
    return WholeBatch(network, parameters, join, replays)


def _dropout_base(train: Train, session: Session) -> tuple[int, ...]:
    """Replicas drop differently; the ranks of a model group the same, unless their sequences are parts."""
    place = session.place
    return train.seed, place.dp, place.mp if session.strategy.use_seq_parallel else 0


def optimizer_for(train: Train, session: Session, parameters: Sequence[ms.Parameter]) -> AdamW:
    """AdamW with the job's numbers, its moments shared out over the data group where the job asks for it."""
    options = {
        "beta1": train.beta1,
        "beta2": train.beta2,
        "eps": train.eps,
        "weight_decay": train.weight_decay,
    }
    if session.strategy.optimizer_shard and session.groups.data is not None:
        return ShardedAdamW(parameters, session.strategy, session.place, session.groups.data, **options)
    return AdamW(parameters, **options)
