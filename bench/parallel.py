"""What micro batches make of a pipeline's bubble: measured step times against (m + p - 1) / m.

    python bench/parallel.py [--steps 5] [--json]

Two stages on two ranks of this machine, one thread each, the same batch in 1, 2, 4 and 8 micro batches. The
bubble's share of a step is that of `orchestrate plan`. Needs two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.report import Goal, Sample, Series, Table, print_json  # noqa: E402

STAGES, ROWS, MICRO_BATCHES = 2, 8, (1, 2, 4, 8)
SHAPE = {"hidden_size": 256, "num_layers": 8, "num_heads": 8, "vocab_size": 512, "seq_length": 128}


def run_rank(steps: int, folder: Path) -> None:
    """One rank: all numbers of micro batches in turn; the first writes its step times."""
    # Brings in MindSpore, which only the ranks need.
    import numpy as np

    from model.assembly import gradient_source, optimizer_for
    from model.bloom import build, initialise
    from model.config import load_config
    from model.data import Batch
    from model.session import open_session, serve_scheduler
    from model.settings import Parallel, Settings, Train, Worker
    from model.step import TrainStep

    worker, config = Worker.from_environment(os.environ), load_config("tiny", SHAPE)
    parallel = Parallel(pipeline_stage=STAGES)
    if worker.is_scheduler:
        return serve_scheduler(Settings(parallel=parallel), worker)
    session = open_session(Settings(parallel=parallel), worker)
    ids = np.random.default_rng(0).integers(4, 512, (ROWS, SHAPE["seq_length"] + 1)).astype(np.int32)
    weights = np.full((ROWS, SHAPE["seq_length"]), 1 / (ROWS * SHAPE["seq_length"]), np.float32)
    batch, walls = Batch(ids[:, :-1], ids[:, 1:], weights), {}
    for micro in MICRO_BATCHES:
        network = build(config, session.strategy, session.place, session.groups)
        initialise(network, config, 1, session.strategy, session.place)
        optimizer = optimizer_for(Train(), session, list(network.trainable_params()))
        settings = Settings(parallel=Parallel(pipeline_stage=STAGES, micro_batch_num=micro), train=Train())
        source = gradient_source(settings, config, session, network, optimizer.parameters)
        step = TrainStep(source, optimizer, gather=session.gather)
        step(batch, 1e-4)  # compiles
        walls[micro] = []
        for _ in range(steps):
            begin = time.monotonic()
            step(batch, 1e-4)
            walls[micro].append(time.monotonic() - begin)
    if worker.rank == 0:
        (folder / "walls.json").write_text(json.dumps(walls))


def measured(steps: int) -> dict[int, Series]:
    """Step times by number of micro batches."""
    from tests.model.cluster import start, tails

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, "--rank", name, "--steps", str(steps)]
        codes = start(folder, command, STAGES, timeout=900)
        if set(codes.values()) != {0}:
            raise SystemExit(f"{codes}\n{tails(folder, codes)}")
        walls = json.loads((folder / "walls.json").read_text())
    return {
        int(micro): Series(f"{micro} micro batches", samples=[Sample(wall, 0.0) for wall in part])
        for micro, part in walls.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        run_rank(options.steps, options.rank)
        return 0
    series = measured(options.steps)
    most = MICRO_BATCHES[-1]
    formula = {micro: (micro + STAGES - 1) / micro for micro in MICRO_BATCHES}
    rows = {
        micro: (series[micro].wall / series[most].wall, formula[micro] / formula[most])
        for micro in MICRO_BATCHES
    }
    goals = [
        Goal(f"{micro} micro batches, measured / formula", rows[micro][0] / rows[micro][1], 1.15)
        for micro in MICRO_BATCHES[:-1]
    ]
    if options.json:
        print_json(
            {
                "steps": {str(micro): item.to_json() for micro, item in series.items()},
                "goals": {goal.name: goal.to_json() for goal in goals},
            }
        )
        return 0
    table = Table("micro batches", "step", f"of that with {most}", "formula", "bubble")
    for micro in MICRO_BATCHES:
        ratio, expected = rows[micro]
        bubble = (STAGES - 1) / (micro + STAGES - 1)
        table.add(
            str(micro), f"{series[micro].wall:.3f} s", f"{ratio:.2f}", f"{expected:.2f}", f"{bubble:.0%}"
        )
    table.print()
    for goal in goals:
        print(goal.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
