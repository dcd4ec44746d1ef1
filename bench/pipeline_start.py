"""How long the first step of a pipeline takes, which is mostly compilation.

    python bench/pipeline_start.py [--stages 4] [--blocks 1] [--pairs 3] [--against FOLDER] [--json]

A rank for every stage, on the cores of this machine; the time from the first rank's start of the first step
to the last one's end of it, and the CPU time of all ranks in it; twice in each cluster, of new graphs. With
`--against` the same is measured with another checkout of this repository, in turns, and the losses of both
have to be the same. As many stages compile at the same time as there are cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("BENCH_CHECKOUT", Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(ROOT))

from bench.report import Goal, Sample, Series, Table, print_json  # noqa: E402

SHAPE = {"hidden_size": 64, "num_heads": 4, "vocab_size": 512, "seq_length": 32}
ROWS, MICRO_BATCHES = 4, 4
TIMES = 2  # in one cluster, whose start takes longer than a step


def first_steps(checkout: Path, stages: int, blocks: int) -> tuple[list[Sample], set[float]]:
    """Wall and CPU times of first steps in a cluster of their own, and their losses."""
    from tests.model.support.cluster import start, tails

    case = {
        "shape": {**SHAPE, "num_layers": stages * blocks},
        "rows": ROWS,
        "parallel": {"pipeline_stage": stages},
        "recompute": False,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "case.json").write_text(json.dumps(case))
        command = [sys.executable, str(Path(__file__).resolve()), "--rank-of", str(folder)]
        env = {"PYTHONPATH": str(checkout), "BENCH_CHECKOUT": str(checkout)}
        codes = start(folder, command, stages, timeout=900, **env)
        if set(codes.values()) != {0}:
            raise SystemExit(f"{codes}\n{tails(folder, codes)}")
        ranks = [json.loads((folder / f"first_{rank}.json").read_text()) for rank in range(stages)]
    samples = []
    for steps in zip(*ranks, strict=True):
        wall = max(step["end"] for step in steps) - min(step["begin"] for step in steps)
        samples.append(Sample(wall, sum(step["cpu"] for step in steps)))
    return samples, {step["loss"] for steps in ranks for step in steps}


def run_rank(folder: Path) -> None:
    """What each rank does."""
    from bench.parallel_rank import batch_of, settings_of, step_of
    from model.cli.shared_options import marked_done
    from model.config.load_config import load_config
    from model.config.settings import Worker
    from model.parallel.distributed import open_session, serve_scheduler

    case: dict[str, Any] = json.loads((folder / "case.json").read_text())
    worker, settings = Worker.from_environment(os.environ), settings_of(case)
    if worker.is_scheduler:
        return serve_scheduler(settings, worker)
    with marked_done(worker.rank, folder):
        session, batch, steps = open_session(settings, worker), batch_of(case), []
        for _ in range(TIMES):
            step = step_of(case, load_config("tiny", case["shape"]), session, MICRO_BATCHES)
            session.gather(batch.weights[0, :1])  # all begin together
            begin, cpu = time.monotonic(), time.process_time()
            loss = step(batch, 1e-4).loss
            end, cpu = time.monotonic(), time.process_time() - cpu
            steps.append({"begin": begin, "end": end, "cpu": cpu, "loss": loss})
        (folder / f"first_{worker.rank}.json").write_text(json.dumps(steps))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=1, help="of each stage")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank_of:
        run_rank(options.rank_of)
        return 0
    checkouts = {"here": ROOT, **({"other": options.against.resolve()} if options.against else {})}
    series = {name: Series(name) for name in checkouts}
    losses = set()
    for _ in range(options.pairs):
        for name, checkout in checkouts.items():
            samples, found = first_steps(checkout, options.stages, options.blocks)
            series[name].samples += samples
            losses |= found
    if len(losses) > 1:
        raise SystemExit(f"the losses are not the same: {losses}")
    goals = []
    if options.against:
        goals.append(Goal("first step, here / other", series["here"].wall / series["other"].wall, 1.0))
    if options.json:
        measured = {name: one.to_json() for name, one in series.items()}
        print_json({"series": measured, "goals": {goal.name: goal.to_json() for goal in goals}})
        return 0
    table = Table(f"{options.stages} stages of {options.blocks} blocks", "first step", "from", "to", "CPU")
    for name, one in series.items():
        table.add(name, *(f"{value:.2f} s" for value in (one.wall, *one.spread, one.cpu)))
    table.print()
    for goal in goals:
        print(goal.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
