"""The training loop of one rank."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import mindspore as ms
from mindspore import nn

from model.assembly import gradient_source, optimizer_for
from model.bloom import build, initialise
from model.checkpointing import Progress, load_rank, load_whole, newest_shard, save_shard, write_strategy_file
from model.config import BloomConfig, config_text
from model.data import Dataset
from model.errors import ModelError, TrainingError
from model.loss_scale import loss_scale_of
from model.padding import stored_value
from model.schedule import SHAPES, rate_at
from model.session import Session, check_same_on_all_ranks, open_session, strategy_of
from model.settings import Settings, Train, Worker
from model.sources import load_data
from model.step import TrainStep
from model.tokenizer import Tokenizer

__all__ = ["StepRecord", "Trainer", "train"]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of metrics; `loss` and `tokens_per_s` are of all replicas together."""

    step: int
    total_steps: int
    loss: float
    lr: float
    tokens_per_s: float
    step_time_s: float
    time: float


class Trainer:
    """Data, network, optimizer and compiled step of one rank; files go below `home`."""

    def __init__(
        self, settings: Settings, config: BloomConfig, session: Session, dataset: Dataset, home: Path
    ) -> None:
        self.settings, self.session, self.dataset, self.home = settings, session, dataset, home
        train = settings.train
        ms.set_seed(train.seed + session.place.dp)
        network = build(config, session.strategy, session.place, session.groups)
        self.weights = list(network.trainable_params())
        self.optimizer = optimizer_for(train, session, self.weights)
        self.moments = [*self.optimizer.adam_m, *self.optimizer.adam_v]
        self.done = self._start_weights(network, config)
        self.train_step = TrainStep(
            gradient_source(settings, config, session, network, self.optimizer.parameters),
            self.optimizer,
            clip=train.clip_grad or 0.0,
            loss_scale=loss_scale_of(train.loss_scale, train.loss_scale_start, train.loss_scale_window),
            gather=session.gather,
        )

    def _start_weights(self, network: nn.Cell, config: BloomConfig) -> int:
        """Load or draw the weights; gives the steps already done (0 unless shards are resumed)."""
        strategy, place = self.session.strategy, self.session.place
        load = self.settings.checkpoint.load
        if load is None:
            initialise(network, config, self.settings.train.seed, strategy, place)
        elif Path(load).is_dir():
            return load_rank(
                newest_shard(Path(load), place.rank), self.weights, self.moments, strategy, place
            ).step
        else:
            load_whole(Path(load), self.weights, strategy, place, config.num_layers)
        return 0

    @property
    def global_batch(self) -> int:
        return self.settings.train.batch_size * self.session.strategy.data_parallel

    @property
    def total_steps(self) -> int:
        train = self.settings.train
        if train.steps is not None:
            return train.steps
        return max(1, math.ceil((train.epochs or 0) * len(self.dataset) / self.global_batch))

    def write_descriptions(self, config: BloomConfig, tokenizer: Tokenizer) -> None:
        """The strategy file of this rank, and from rank 0 what is needed to answer beside the weights."""
        rank = self.session.place.rank
        write_strategy_file(
            self.home / "strategy" / f"ckpt_strategy_rank_{rank}.ckpt",
            [*self.weights, *self.moments],
            self.session.strategy,
            self.session.place,
        )
        if rank == 0:
            folder = self.home / "model"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(config_text(config), encoding="utf-8")
            (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")

    def run(self, report: Callable[[StepRecord], None]) -> None:
        """Train to the last step; every step is reported and written to metrics/rank_<r>.jsonl."""
        path = self.home / "metrics" / f"rank_{self.session.place.rank}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_steps = self.settings.checkpoint.save_steps
        with path.open("a", encoding="utf-8") as metrics:
            for step in range(self.done + 1, self.total_steps + 1):
                record = self.step(step)
                _append(metrics, record)
                report(record)
                if step == self.total_steps or (save_steps and step % save_steps == 0):
                    self.save(step)

    def step(self, step: int) -> StepRecord:
        """One optimizer step on all replicas; TrainingError where its loss is no finite number."""
        start = time.monotonic()
        train, place = self.settings.train, self.session.place
        batch = self.dataset.batch(
            step, train.batch_size, train.seed, self.session.strategy.data_parallel, place.dp
        )
        rate = rate_at(
            step,
            total_steps=self.total_steps,
            warmup_steps=train.warmup_steps,
            peak=train.learning_rate,
            end=train.lr_end,
            shape=train.lr_schedule,
        )
        result = self.train_step(batch, rate)
        if not (result.updated or result.skipped):
            raise TrainingError(
                f"step {step} gave a loss of {result.loss} and a gradient norm of {result.norm}",
                where=self.session.strategy.names(result.origins or (place.rank,)),
                remedy="lower train.learning_rate, lengthen the warm-up, or look at the data of this step",
            )
        seconds = time.monotonic() - start
        tokens = self.global_batch * batch.tokens.shape[1]
        return StepRecord(step, self.total_steps, result.loss, rate, tokens / seconds, seconds, time.time())

    def save(self, step: int) -> Path:
        """Write this rank's shard."""
        options = self.settings.checkpoint
        progress = Progress(self.dataset.epoch(step, self.global_batch), step)
        session = self.session
        everything = [
            stored_value(item, session.strategy, session.groups.model)
            for item in (*self.weights, *self.moments)
        ]
        return save_shard(
            self.home / "checkpoint",
            options.prefix,
            self.session.place.rank,
            everything,
            progress,
            options.keep,
        )


def _refuse_what_is_not_built(settings: Settings) -> None:
    defaults = Train()
    for key in ("device_tflops",):
        if getattr(settings.train, key) != getattr(defaults, key):
            raise ModelError("is not supported yet", where=f"train.{key}", remedy="leave it out")


def _append(metrics: TextIO, record: StepRecord) -> None:
    values = asdict(record)
    values["tokens_per_s"] = round(record.tokens_per_s, 1)
    values["step_time_s"] = round(record.step_time_s, 4)
    metrics.write(json.dumps(values) + "\n")
    metrics.flush()


def train(settings: Settings, worker: Worker, home: Path, report: Callable[[StepRecord], None]) -> Trainer:
    """The whole task on this rank: data, checks with the other ranks, training, shard.

    What can be wrong with the input is found before the other ranks are joined.
    """
    if settings.train.lr_schedule not in SHAPES:
        raise ModelError(f"is not one of {', '.join(SHAPES)}", where="train.lr_schedule")
    _refuse_what_is_not_built(settings)
    config = settings.bloom()
    strategy = strategy_of(settings, worker)
    config.check_model_parallel(strategy.model_parallel)
    config.check_stages(strategy.pipeline_stage)
    config.check_sequence_parts(strategy.model_parallel if strategy.use_seq_parallel else 1)
    dataset, tokenizer = load_data(settings, config)
    session = open_session(settings, worker)
    facts = {
        "the vocabulary": tokenizer.to_json().encode(),
        "the data": dataset.ids.tobytes(),
        "the job": repr((config, settings.parallel, settings.train, settings.checkpoint.save_steps)).encode(),
    }
    check_same_on_all_ranks(session, facts)
    trainer = Trainer(settings, config, session, dataset, home)
    trainer.write_descriptions(config, tokenizer)
    trainer.run(report)
    return trainer
