"""What `orchestrate plan` estimates against what is measured: the pipeline's bubble, and memory per rank.

    python bench/parallel.py [--what time memory] [--steps 3] [--json]

time    two stages on two ranks of this machine, one core each, the same batch in 1, 2, 4 and 8 micro
        batches: step times against (m + p - 1) / m of what one micro batch takes without the bubble. What a
        micro batch costs beside its share of the computing is not in the formula. Needs two idle cores.
memory  the most memory of a rank in three steps, against the estimate, for two replicas with and without a
        sharded optimizer and for two stages. Counted: weights, moments and accumulators by their sizes, and
        all else by the peak of MindSpore's own memory pool. Not counted: the program and its compiler, and
        copies of matrices that the CPU's kernels keep to themselves.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


from bench.report import Goal, Sample, Series, Table, print_json  # noqa: E402
from orchestrator.checkpoint.cut.network_cut import NetworkCut  # noqa: E402
from orchestrator.families.bloom import BLOOM, BloomConfig  # noqa: E402
from orchestrator.sizing.estimate import StageEstimate, estimate  # noqa: E402
from orchestrator.sizing.step_workload import Workload  # noqa: E402

STAGES, MICRO_BATCHES = 2, (1, 2, 4, 8)
TIMED = {
    "shape": {"hidden_size": 512, "num_layers": 4, "num_heads": 8, "vocab_size": 512, "seq_length": 512},
    "rows": 8,
    "parallel": {"pipeline_stage": STAGES},
    "micro_batches": MICRO_BATCHES,
    "recompute": False,
}
WEIGHED = {"hidden_size": 512, "num_layers": 4, "num_heads": 8, "vocab_size": 4096, "seq_length": 256}
REPLICAS = {"data_parallel": 2}
CASES: dict[str, dict[str, Any]] = {
    "2 replicas": {"parallel": REPLICAS},
    "2 replicas, sharded optimizer": {"parallel": {**REPLICAS, "optimizer_shard": True}},
    "2 replicas, recompute": {"parallel": REPLICAS, "recompute": True},
    "2 replicas, 4 micro batches": {"parallel": REPLICAS, "micro_batches": [4]},
    "2 replicas, sharded, 4 micro batches": {
        "parallel": {**REPLICAS, "optimizer_shard": True},
        "micro_batches": [4],
    },
    "2 stages, 4 micro batches": {"parallel": {"pipeline_stage": 2}, "micro_batches": [4]},
}
MIB = 2**20
# Printed by MindSpore at the end of a process where MS_DEV_RUNTIME_CONF asks for it.
_PEAK = re.compile(r"dynamic memory pool .*?[^l] peak used mem:(\d+)M")


def run(case: dict[str, Any], folder: Path, **env: str) -> None:
    """Both ranks of a case to their end; their logs and results are left in `folder`."""
    from tests.model.support.cluster import start, tails

    (folder / "case.json").write_text(json.dumps(case))
    command = [sys.executable, str(ROOT / "bench/parallel_rank.py"), str(folder / "case.json"), str(folder)]
    codes = start(folder, command, 2, timeout=900, **env)
    if set(codes.values()) != {0}:
        raise SystemExit(f"{codes}\n{tails(folder, codes)}")


def times(steps: int) -> dict[int, Series]:
    """Step times by number of micro batches."""
    with tempfile.TemporaryDirectory() as name:
        run({**TIMED, "steps": steps}, Path(name))
        walls = json.loads((Path(name) / "walls.json").read_text())
    return {
        int(micro): Series(f"{micro} micro batches", samples=[Sample(wall, 0.0) for wall in part])
        for micro, part in walls.items()
    }


@dataclass(frozen=True, slots=True)
class Weighed:
    """One rank: bytes that were measured and those that the planner says."""

    name: str
    measured: int
    planned: StageEstimate

    @property
    def off(self) -> float:
        """How far the estimate is off, as part of what was measured."""
        return abs(self.planned.total / self.measured - 1)


def memory() -> list[Weighed]:
    """The first rank of every stage of every case."""
    found = []
    for name, options in CASES.items():
        case = {"shape": WEIGHED, "rows": 4, "steps": 2, "recompute": False, "micro_batches": [1], **options}
        stages = case["parallel"].get("pipeline_stage", 1)
        planned = estimate(_network(), _workload(case)).stages
        with tempfile.TemporaryDirectory() as folder:
            run(case, Path(folder), MS_DEV_RUNTIME_CONF="memory_statistics:true")
            for stage in range(stages):
                label = f"{name}, stage {stage}" if stages > 1 else name
                found.append(Weighed(label, _measured(Path(folder), stage), planned[stage]))
    return found


def _measured(folder: Path, rank: int) -> int:
    peak = _PEAK.search((folder / f"rank_{rank}.log").read_text())
    if peak is None:
        raise SystemExit("this MindSpore prints no statistics of its memory pool")
    return int(json.loads((folder / f"held_{rank}.json").read_text())) + int(peak[1]) * MIB


def _network() -> BloomConfig:
    types = ("param_init_type", "softmax_compute_type", "compute_dtype")
    return BloomConfig(**WEIGHED, **dict.fromkeys(types, "float32"))


def _workload(case: dict[str, Any]) -> Workload:
    return Workload(
        cut=NetworkCut(BLOOM, **case["parallel"]),
        batch_size=case["rows"],
        micro_batch_num=case["micro_batches"][0],
        recompute=case["recompute"],
        trains=True,
        ranks_per_host=2,
    )


def time_goals(series: dict[int, Series], table: Table) -> list[Goal]:
    computing = series[1].wall / STAGES
    goals = []
    for micro in MICRO_BATCHES:
        wall, expected = series[micro].wall, computing * (micro + STAGES - 1) / micro
        bubble = (STAGES - 1) / (micro + STAGES - 1)
        table.add(str(micro), f"{wall:.2f} s", f"{expected:.2f} s", f"{wall / expected:.2f}", f"{bubble:.0%}")
        if micro > 1:
            goals.append(Goal(f"{micro} micro batches, formula off by", abs(wall / expected - 1), 0.15))
    return goals


def memory_goals(found: Sequence[Weighed], table: Table) -> list[Goal]:
    for each in found:
        part = each.planned
        parts = (part.weights, part.gradients, part.optimizer, part.activations)
        sizes = (each.measured, part.total, *parts)
        table.add(each.name, *(f"{size / MIB:.0f}" for size in sizes), f"{part.total / each.measured:.2f}")
    return [Goal(f"{each.name}, estimate off by", each.off, 0.15) for each in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=["time", "memory"], default=["time", "memory"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    goals: list[Goal] = []
    tables = []
    if "time" in options.what:
        tables.append(Table("micro batches", "step", "formula", "measured / formula", "bubble"))
        goals += time_goals(times(options.steps), tables[-1])
    if "memory" in options.what:
        parts = ("weights", "gradients", "optimizer", "activations")
        tables.append(Table("MiB of a rank", "measured", "planned", *parts, "planned / measured"))
        goals += memory_goals(memory(), tables[-1])
    if options.json:
        print_json({"goals": {goal.name: goal.to_json() for goal in goals}})
        return 0
    for table in tables:
        table.print()
        print()
    for goal in goals:
        print(goal.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
