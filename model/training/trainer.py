"""The training loop of one rank, with the source of gradients and the optimizer that its job asks for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from model.config.beside_checkpoint import check_beside
from model.config.load_config import config_text
from model.config.settings import Settings, Worker
from model.data.dataset import Dataset, load_data
from model.data.tokenizer import Tokenizer
from model.devices.device import current_device, has_flash_attention
from model.errors import ModelError, TrainingError
from model.network.build import build, recompute_blocks
from model.network.dropout import DropoutSeed, seed_dropout
from model.network.dropout_check import prove_dropout
from model.parallel.distributed import Session, check_same_on_all_ranks, open_session, strategy_of
from model.parallel.mesh import stored_value
from model.parallel.p2p import open_link
from model.parallel.sequence import cut_sequence
from model.phases import SAVE, Phase, Phases
from model.training.gradients import ReduceGradients
from model.training.metrics import MetricsFile, StepRecord, utilisation
from model.training.optimizer import AdamW, rate_at
from model.training.overflow import overflow_register, saturates
from model.training.pipeline import Pipeline, Stage
from model.training.resume import start_weights
from model.training.save_clock import SaveClock
from model.training.saver import Saver, ShardFolder
from model.training.sharded_optimizer import ShardedAdamW
from model.training.step import (
    BatchInTwo,
    GradientSource,
    LossScale,
    MicroBatches,
    StepResult,
    TrainStep,
    WholeBatch,
    loss_scale_of,
)
from model.training.step_requests import asked_for
from model.training.stop_request import StopRequest
from model.weights.checkpoint import Progress, shard_contents, steps_of, stored_bytes, write_strategy_file
from model.weights.snapshot import Snapshot
from orchestrator.checkpoint.save_interval import default_mtbf, guessed_stall
from orchestrator.config.worker_config import Train
from orchestrator.families.network_config import NetworkConfig

__all__ = [
    "Trainer",
    "gradient_source",
    "optimizer_for",
    "train",
]


def gradient_source(
    settings: Settings,
    config: NetworkConfig,
    session: Session,
    network: nn.Cell,
    parameters: ms.ParameterTuple,
    done: int = 0,
    prove: Callable[[DropoutSeed], None] = prove_dropout,
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
    dropout_seed = seed_dropout(network, _dropout_base(train, session), first_block, place.dp)
    if dropout_seed:
        prove(dropout_seed)
        dropout_seed.steps = done
    if train.recompute:
        recompute_blocks(network)
    reduce = ReduceGradients(parameters, strategy, place, session.groups)
    if strategy.pipeline_stage > 1:
        link = open_link(strategy.names((place.rank,)), settings.parallel.link_timeout)
        barrier = partial(session.gather, np.zeros(1, np.float32))
        stage = Stage(strategy, place, config, link, barrier, dropout_seed)
        return Pipeline(network, parameters, reduce, stage, parts)
    # Its own computing waits for no other rank, so that how long it takes can be told.
    is_alone = session.groups.data is not None and session.groups.model is None
    if parts > 1:
        return MicroBatches(network, parameters, reduce, parts, dropout_seed, is_alone)
    apart = is_alone and reduce.is_in_one_buffer
    kind: Callable[..., GradientSource] = BatchInTwo if apart else WholeBatch
    return kind(network, parameters, reduce, dropout_seed)


def _dropout_base(train: Train, session: Session) -> tuple[int, ...]:
    """Records drop differently; the ranks of a model group the same, unless their sequences are parts."""
    return train.seed, session.place.mp if session.strategy.use_seq_parallel else 0


def optimizer_for(train: Train, session: Session, parameters: Sequence[ms.Parameter]) -> AdamW:
    """AdamW with the job's numbers, its moments shared out over the data group where the job asks for it."""
    kind: Callable[..., AdamW] = AdamW
    if session.strategy.optimizer_shard and session.groups.data is not None:
        kind = partial(
            ShardedAdamW, strategy=session.strategy, place=session.place, group=session.groups.data
        )
    return kind(
        parameters, beta1=train.beta1, beta2=train.beta2, eps=train.eps, weight_decay=train.weight_decay
    )


class Trainer:
    """Data, network, optimizer and compiled step of one rank; files go below `home`.

    `stop` listens for SIGTERM once the first step is summed up, and is asked in every later one. Without one
    the signal does what it did before.
    """

    def __init__(
        self,
        settings: Settings,
        config: NetworkConfig,
        session: Session,
        dataset: Dataset,
        home: Path,
        *,
        phases: Phases | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        self.settings, self.session, self.dataset, self.home = settings, session, dataset, home
        self.config = config
        self.phases, self.stop = phases or Phases(), stop or StopRequest()
        self.stopped: int | None = None  # the step after which all stopped, and which is saved
        train = settings.train
        ms.set_seed(train.seed + session.place.dp)
        network = build(config, session.strategy, session.place, session.groups)
        self.weights = list(network.trainable_params())
        self.optimizer = optimizer_for(train, session, self.weights)
        self.moments = [*self.optimizer.adam_m, *self.optimizer.adam_v]
        loss_scale = loss_scale_of(train.loss_scale, train.loss_scale_start, train.loss_scale_window)
        progress = start_weights(network, self.weights, self.moments, settings, config, session)
        self.done = self._resume(progress, loss_scale) if progress else 0
        self.train_step = TrainStep(
            gradient_source(settings, config, session, network, self.optimizer.parameters, self.done),
            self.optimizer,
            clip=train.clip_grad or 0.0,
            loss_scale=loss_scale,
            gather=session.gather,
            register=overflow_register(config.compute_dtype),
            asked=self._asks,
            summed=self._listen if stop else lambda: None,
        )

        options = settings.checkpoint
        sizes = stored_bytes([*self.weights, *self.moments], session.strategy)
        files = ShardFolder(home / "checkpoint", options.prefix, session.place.rank, options.keep)
        self.saver = Saver(files, self.phases, Snapshot(sizes) if options.asynchronous else None)
        # Ranks would not find the same moment by clocks of their own.
        is_asking = options.save_every is not None and session.place.rank == 0
        self.save_clock = self._save_clock(sum(sizes)) if is_asking else None

    def _save_clock(self, nbytes: int) -> SaveClock:
        options = self.settings.checkpoint
        return SaveClock(
            None if isinstance(options.save_every, str) else options.save_every,
            mtbf=options.mtbf or default_mtbf(self.session.strategy.world_size),
            guess=guessed_stall(nbytes, asynchronous=options.asynchronous),
        )

    def _asks(self) -> float:
        is_time = self.save_clock is not None and self.save_clock.is_due()
        return asked_for(stop=self.stop.asked, save=is_time)

    def _listen(self) -> None:
        """All ranks come here within a moment, the first time with something that is worth to be saved."""
        self.stop.listen()
        self.phases.announce(SAVE)

    def _resume(self, progress: Progress, loss_scale: LossScale) -> int:
        """The steps already done; ModelError where this job cannot go on from there."""
        step, load = progress.step, str(self.settings.checkpoint.load)
        if step >= self.total_steps:
            raise ModelError(
                f"asks for {self.total_steps} steps, but the checkpoint has done {step}",
                where="train",
                remedy="raise train.steps or epochs, or set checkpoint.resume to false",
            )
        here = self.dataset.epoch(step, self.global_batch)
        if here != progress.epoch:
            raise ModelError(
                f"was in epoch {progress.epoch} after step {step}, but with this data and batch it is {here}",
                where=load,
                remedy="resume with the same data, train.batch_size and data_parallel",
            )
        if progress.loss_scale is not None and loss_scale.window:
            loss_scale.value, loss_scale.good_steps = progress.loss_scale, progress.good_steps
        return step

    @property
    def global_batch(self) -> int:
        return self.settings.train.batch_size * self.session.strategy.data_parallel

    @property
    def total_steps(self) -> int:
        train = self.settings.train
        if train.steps is not None:
            return train.steps
        return max(1, math.ceil((train.epochs or 0) * len(self.dataset) / self.global_batch))

    def write_descriptions(self, config: NetworkConfig, tokenizer: Tokenizer) -> None:
        """The strategy file of this rank, and what is needed beside the weights: from rank 0 in `model`, and
        on each host in the folder of its shards."""
        rank = self.session.place.rank
        write_strategy_file(
            self.home / "strategy" / f"ckpt_strategy_rank_{rank}.ckpt",
            [*self.weights, *self.moments],
            self.session.strategy,
            self.session.place,
        )
        files = {"config.yaml": config_text(config).encode(), "tokenizer.json": tokenizer.to_json().encode()}
        for folder in ("checkpoint", *(["model"] if rank == 0 else [])):
            for name, content in files.items():
                _write_once(self.home / folder / name, content, rank)

    def run(self, report: Callable[[StepRecord], None]) -> None:
        """Train to the last step; every step is reported and written to metrics/rank_<r>.jsonl.

        Where a rank was asked to stop, all save after the same step, and return with it as `stopped`.
        """
        save_steps = self.settings.checkpoint.save_steps
        with MetricsFile(self.home, self.session.place.rank) as metrics, self.saver:
            for step in range(self.done + 1, self.total_steps + 1):
                record, result = self.step(step)
                metrics.append(record)
                report(record)
                self.saver.check()
                is_last = step == self.total_steps
                is_over = result.stops or is_last
                if is_over or result.saves or (save_steps and step % save_steps == 0):
                    self.save(step, is_last=is_over)
                if result.stops and not is_last:
                    self.stop.agree()
                    # Who left before the others have saved would take away what they still need.
                    self.session.gather(np.zeros(1, np.float32))
                    self.stopped = step
                    return

    def step(self, step: int) -> tuple[StepRecord, StepResult]:
        """One optimizer step on all replicas.

        Raises TrainingError where its loss is no finite number.
        """
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
        compiles = self.train_step.compiles(batch)
        if compiles:
            self.phases.enter(Phase.COMPILE)
        with self.stop.during_step():
            result = self.train_step(batch, rate)
        if not (result.updated or result.skipped):
            raise self._failure(step, result)
        seconds = time.monotonic() - start
        if compiles:
            self.phases.enter(Phase.STEP)
        tokens = self.global_batch * batch.tokens.shape[1]
        speed, devices = tokens / seconds, self.session.strategy.world_size
        record = StepRecord(
            step=step,
            total_steps=self.total_steps,
            loss=result.loss,
            lr=rate,
            tokens_per_s=speed,
            step_time_s=seconds,
            time=time.time(),
            grad_norm=result.norm,
            loss_scale=result.loss_scale if train.loss_scale else None,
            skipped=result.skipped,
            mfu=utilisation(self.config, speed, devices, train.device_tflops),
            compute_s=None if compiles or result.computed is None else result.computed - start,
        )
        if self.save_clock is not None:
            self.save_clock.start()
        return record, result

    def _failure(self, step: int, result: StepResult) -> TrainingError:
        what = f"step {step} gave a loss of {result.loss} and a gradient norm of {result.norm}"
        help_ = "lower train.learning_rate, or look at the data of this step"
        if result.saturated:
            what = f"step {step} overflowed, with a loss scale of {result.loss_scale:g}"
            if not self.settings.train.loss_scale:
                help_ = "set train.loss_scale to dynamic"
        where = self.session.strategy.names(result.origins or (self.session.place.rank,))
        return TrainingError(what, where=where, remedy=f"{self._last_good()}; {help_}")

    def _last_good(self) -> str:
        self.saver.settle()
        saved = steps_of(self.home / "checkpoint", self.session.place.rank)
        return f"the last checkpoint is of step {saved[-1]}" if saved else "no checkpoint was saved before"

    def save(self, step: int, *, is_last: bool = True) -> None:
        """Save this rank's shard; it is whole when this returns if it `is_last`, or is not saved behind the
        steps."""
        progress = Progress(self.dataset.epoch(step, self.global_batch), step)
        scale = self.train_step.loss_scale
        if scale.window:
            progress = replace(progress, loss_scale=scale.value, good_steps=scale.good_steps)
        session = self.session
        everything = (
            stored_value(item, session.strategy, session.groups.model)
            for item in (*self.weights, *self.moments)
        )
        self.saver.save(shard_contents(everything, progress), progress, is_last=is_last)
        if self.save_clock is not None:
            self.save_clock.note(self.saver.stall, self.saver.last)


def _write_once(path: Path, content: bytes, rank: int) -> None:
    """Ranks of one host write the same file at the same time, which is whole at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.read_bytes() == content:
        return
    part = path.with_name(f".{path.name}.rank_{rank}")
    part.write_bytes(content)
    part.replace(path)


def train(
    settings: Settings,
    worker: Worker,
    home: Path,
    report: Callable[[StepRecord], None],
    *,
    phases: Phases | None = None,
    stop: StopRequest | None = None,
) -> Trainer:
    """The whole task on this rank: data, checks with the other ranks, training, shard.

    What can be wrong with the input is found before the ranks connect. `phases` and `stop` as of Trainer.
    """
    phases = phases or Phases()
    phases.enter(Phase.INIT)
    config = settings.network()
    strategy_of(settings, worker).check_network(config)
    if settings.checkpoint.load is not None:
        check_beside(config, Path(settings.checkpoint.load))
    dataset, tokenizer = load_data(settings, config)
    session = open_session(settings, worker)
    when = settings.checkpoint.save_steps, settings.checkpoint.save_every
    facts = {
        "the vocabulary": tokenizer.to_json().encode(),
        "the data": dataset.ids.tobytes(),
        "the job": repr((config, settings.parallel, settings.train, *when)).encode(),
        "the kind of attention": repr(has_flash_attention(config)).encode(),  # some chips have no kernel
        # Where they saturate, all ranks ask each other in every step.
        "what overflowing numbers become": repr(saturates(current_device())).encode(),
    }
    check_same_on_all_ranks(session, facts)
    trainer = Trainer(settings, config, session, dataset, home, phases=phases, stop=stop)
    trainer.write_descriptions(config, tokenizer)
    trainer.run(report)
    return trainer
