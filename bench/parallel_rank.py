"""What each rank of bench/parallel.py runs: one training step of a Bloom, timed, or weighed.

    python bench/parallel_rank.py CASE.json FOLDER

Rank 0 writes `walls.json` (step times by number of micro batches), every rank `held_<r>.json`: the bytes of
its weights, moments and accumulators.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from model.cli.shared_options import marked_done  # noqa: E402
from model.config.load_config import load_config  # noqa: E402
from model.config.settings import Settings, Worker  # noqa: E402
from model.data.dataset import Batch  # noqa: E402
from model.network.build import build, initialise  # noqa: E402
from model.parallel.distributed import Session, open_session, serve_scheduler  # noqa: E402
from model.training.step import TrainStep  # noqa: E402
from model.training.trainer import gradient_source, optimizer_for  # noqa: E402
from orchestrator.families.bloom import BloomConfig  # noqa: E402


def batch_of(case: dict[str, Any]) -> Batch:
    """One replica's batch."""
    rows, length = case["rows"], case["shape"]["seq_length"]
    ids = np.random.default_rng(0).integers(4, 512, (rows, length + 1)).astype(np.int32)
    weights = np.full((rows, length), 1 / (rows * length), np.float32)
    return Batch(ids[:, :-1], ids[:, 1:], weights)


def settings_of(case: dict[str, Any], **more: Any) -> Settings:
    """The degrees of a case; in the words of the checkout that is measured, which may be an older one."""
    return Settings(parallel=replace(Settings().parallel, **case["parallel"], **more))


def step_of(case: dict[str, Any], config: BloomConfig, session: Session, micro: int) -> TrainStep:
    network = build(config, session.strategy, session.place, session.groups)
    initialise(network, config, 1, session.strategy, session.place)
    train = replace(Settings().train, recompute=case["recompute"])
    optimizer = optimizer_for(train, session, list(network.trainable_params()))
    settings = replace(settings_of(case, micro_batch_num=micro), train=train)
    source = gradient_source(settings, config, session, network, optimizer.parameters)
    return TrainStep(source, optimizer, gather=session.gather)


def held(step: TrainStep) -> int:
    """The bytes of what stays from step to step."""
    optimizer, accumulator = step.optimizer, getattr(step.source, "accumulator", None)
    sums = accumulator.sums if accumulator else ()
    return sum(item.nbytes for item in (*optimizer.parameters, *optimizer.adam_m, *optimizer.adam_v, *sums))


def main(case: dict[str, Any], folder: Path) -> None:
    worker, settings = Worker.from_environment(os.environ), settings_of(case)
    if worker.is_scheduler:
        return serve_scheduler(settings, worker)
    with marked_done(worker.rank, folder):
        run_steps(case, worker, settings, folder)


def run_steps(case: dict[str, Any], worker: Worker, settings: Settings, folder: Path) -> None:
    config = load_config("tiny", case["shape"])
    # A core each, as devices are: the threads of a stage that works would use those of one that waits.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[worker.rank % len(cores)]})
    session, batch, walls = open_session(settings, worker), batch_of(case), {}
    for micro in case["micro_batches"]:
        step = step_of(case, config, session, micro)
        step(batch, 1e-4)  # compiles
        walls[micro] = []
        for _ in range(case["steps"]):
            begin = time.monotonic()
            step(batch, 1e-4)
            walls[micro].append(time.monotonic() - begin)
    (folder / f"held_{worker.rank}.json").write_text(json.dumps(held(step)))
    if worker.rank == 0:
        (folder / "walls.json").write_text(json.dumps(walls))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
