"""What every rank of the cluster in test_strategies.py runs: several strategies one after the other.

Arguments: a JSON file of cases, the folder for results. Each rank writes what it found to `rank_<r>.npz`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.communication as comm
import numpy as np
from mindspore import nn, ops

from model.config.load_config import load_config
from model.config.settings import Settings, Worker
from model.data.dataset import Batch
from model.network.build import build, initialise
from model.parallel.distributed import Session, open_session, serve_scheduler
from model.parallel.mesh import Strategy, gather_small, start_groups, stored_value
from model.parallel.p2p import Watch, open_link
from model.training.step import StepResult, TrainStep
from model.training.step_requests import asked_for
from model.training.trainer import gradient_source, optimizer_for
from model.weights.checkpoint import Progress, load_rank, save_shard, write_strategy_file
from orchestrator.config.worker_config import ParallelDegrees, Train
from orchestrator.families.bloom import BloomConfig
from tests.model.support.native_ranks import check_native, stand_ins

SHAPE = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 33, "seq_length": 8}
ROWS = 8


def batch_of(step: int, strategy: Strategy, dp: int) -> Batch:
    """One replica's part of step `step`, whose global batch is the same for every strategy."""
    random = np.random.default_rng(step)
    ids = random.integers(4, SHAPE["vocab_size"], (ROWS, SHAPE["seq_length"] + 1)).astype(np.int32)
    weights = random.random((ROWS, SHAPE["seq_length"])).astype(np.float32)
    weights /= weights.sum()
    size = ROWS // strategy.data_parallel
    mine = slice(dp * size, (dp + 1) * size)
    return Batch(ids[mine, :-1], ids[mine, 1:], weights[mine])


@dataclass
class Rank:
    """One rank's network and step in one case; the last asks all to stop in some steps, the first to save."""

    session: Session
    network: nn.Cell
    step: TrainStep
    asks: float = 0.0

    def train(self, first: int, steps: int) -> list[StepResult]:
        strategy, place = self.session.strategy, self.session.place
        first_rank, last_rank = place.rank == 0, place.rank == strategy.world_size - 1
        results = []
        for number in range(first, first + steps):
            stop, save = last_rank and number % 3 == 1, first_rank and number % 2 == 1
            self.asks = asked_for(stop=stop, save=save)
            results.append(self.step(batch_of(number, strategy, place.dp), 0.01))
        return results

    @property
    def weights(self) -> list[ms.Parameter]:
        return list(self.step.optimizer.parameters)

    @property
    def moments(self) -> list[ms.Parameter]:
        return [*self.step.optimizer.adam_m, *self.step.optimizer.adam_v]


def prepare(case: dict[str, Any], session: Session, config: BloomConfig) -> Rank:
    train = Train(steps=1, recompute=case.get("recompute", False))
    parallel = ParallelDegrees(*case["degrees"], micro_batch_num=case.get("micro", 1))
    network = build(config, session.strategy, session.place, session.groups)
    initialise(network, config, 3, session.strategy, session.place)
    optimizer = optimizer_for(train, session, list(network.trainable_params()))
    settings = Settings(parallel=parallel, train=train)
    source = gradient_source(settings, config, session, network, optimizer.parameters)
    rank = Rank(session, network, TrainStep(source, optimizer, clip=0.5, gather=session.gather))
    rank.step.asked = lambda: rank.asks
    return rank


def run_case(case: dict[str, Any], worker: Worker, folder: Path, found: dict[str, Any]) -> None:
    degrees, shard = case["degrees"], case.get("shard", False)
    sequence = case.get("sequence", False)
    strategy = Strategy(
        *degrees,
        optimizer_shard=shard,
        vocab_size=SHAPE["vocab_size"],
        use_seq_parallel=sequence,
    )
    rank_there = worker.rank - case.get("first", 0)  # of one process, so that two such cases share no rank
    if not 0 <= rank_there < strategy.world_size:
        return
    place, name = strategy.place(rank_there), case["name"]
    session = Session(strategy, place, start_groups(strategy, place))
    with stand_ins() if case.get("native") else nullcontext():
        layers = {"num_layers": case.get("layers", SHAPE["num_layers"])}
        rank = prepare(case, session, load_config("tiny", {**SHAPE, **layers}))
    grads = rank.step.source.gradients(batch_of(0, strategy, place.dp), 1.0).gradients
    for item, grad in zip(rank.weights, grads, strict=True):
        found[f"{name}/grad/{item.name}"] = grad.asnumpy().copy()  # else the next steps' would be seen
    if case.get("logits"):
        found[f"{name}/logits"] = rank.network(ms.Tensor(batch_of(0, Strategy(), 0).tokens)).asnumpy()
    results = rank.train(0, case["steps"])
    found[f"{name}/loss"] = np.array([result.loss for result in results])
    found[f"{name}/norm"] = np.array([result.norm for result in results])
    found[f"{name}/stops"] = np.array([result.stops for result in results])
    found[f"{name}/saves"] = np.array([result.saves for result in results])
    if case.get("save"):
        save_and_resume(rank, folder / name, case["steps"], f"{name}/", found)
    if case.get("broken"):
        break_one_rank(rank, found)


def save_and_resume(rank: Rank, folder: Path, done: int, name: str, found: dict[str, Any]) -> None:
    """Save, go on; come back to the shard and go on again."""
    strategy, place, groups = rank.session.strategy, rank.session.place, rank.session.groups
    held = [*rank.weights, *rank.moments]
    stored = [stored_value(item, strategy, groups.model) for item in held]
    write_strategy_file(folder / f"strategy/ckpt_strategy_rank_{place.rank}.ckpt", held, strategy, place)
    shard = save_shard(folder / "checkpoint", "demo", place.rank, stored, Progress(1, done), keep=1)
    found[f"{name}straight"] = np.array([result.loss for result in rank.train(done, 2)])
    load_rank(shard, rank.weights, rank.moments, strategy, place)
    found[f"{name}resumed"] = np.array([result.loss for result in rank.train(done, 2)])


def break_one_rank(rank: Rank, found: dict[str, Any]) -> None:
    """A weight that is no number on the last rank: what does each rank say of it?"""
    if rank.session.place.rank == rank.session.strategy.world_size - 1:
        bias = next(item for item in rank.weights if item.name.endswith("mapping.bias"))
        bias.set_data(ops.full(bias.shape, float("nan"), dtype=bias.dtype))
    (result,) = rank.train(0, 1)
    found["origins"] = np.array(result.origins)
    found["stopped"] = np.array([not result.updated, not result.skipped])


def meet_late(worker: Worker, session: Session, found: dict[str, Any]) -> None:
    """The last rank comes to the barrier later than the others would wait: what do they say meanwhile?"""
    told: list[str] = []
    session.gather(np.zeros(1))
    if worker.rank == worker.world_size - 1:
        time.sleep(3)
    with Watch(f"rank {worker.rank}", 0.05, told.append).over_compilation():
        session.gather(np.zeros(1))
    found["told"] = np.array(told)


def wait_in_vain(worker: Worker) -> None:
    """The last rank waits for what rank 0 never sends; the others stay until the test ends them.

    Their own end would race with that of the last rank, and MindSpore's is not always a clean one.
    """
    gather_small(np.zeros(1), worker.rank, worker.world_size, comm.GlobalComm.WORLD_COMM_GROUP)
    if worker.rank == worker.world_size - 1:
        open_link(f"rank {worker.rank}", limit=2).receive((2,), ms.float32, 0, "the activations")
    threading.Event().wait()


def main(cases: Path, folder: Path) -> None:
    worker = Worker.from_environment(os.environ)
    if worker.is_scheduler:
        return serve_scheduler(Settings(), worker)
    session = open_session(Settings(parallel=ParallelDegrees(data_parallel=worker.world_size)), worker)
    found: dict[str, Any] = {}
    for case in json.loads(cases.read_text()):
        run_case(case, worker, folder, found)
    check_native(worker.rank, found)
    meet_late(worker, session, found)
    np.savez(folder / f"rank_{worker.rank}.npz", **found)
    wait_in_vain(worker)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
