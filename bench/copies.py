"""What copies of checkpoints cost a training: the time of its steps with and without them.

    python bench/copies.py [--steps 300] [--size 100] [--every 20] [--rounds 3] [--json]

Two hosts that are folders of this machine. The rank of the first is pinned to one core and does nothing but
steps, of a product of matrices each, and saves `--size` MB every `--every` steps; agents, supervisors and
copiers have the other core. Each round is a pair of runs, one with copies and one without, in turn first. A
step's time is without the save itself. The median of the rounds' ratios is judged; the spread is said.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.report import Goal, print_json  # noqa: E402
from orchestrator.testing.local_cluster import Cluster  # noqa: E402

BOUND = 1.05
RANK = """
import json, os, sys, time
import numpy as np
from pathlib import Path
from orchestrator.checkpoint.files.tensor_files import write_ckpt
steps, size, every = map(int, sys.argv[1:])
rank, done = int(os.environ["RANK"]), Path.cwd() / "../../../../done"
if rank == 1:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    while not done.exists():
        time.sleep(0.2)
    sys.exit(0)
os.sched_setaffinity(0, {0})
a = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
home = Path("checkpoint/rank_0")
home.mkdir(parents=True, exist_ok=True)
shard = np.zeros(size * 250_000, np.float32)
times = []
for step in range(1, steps + 1):
    begun = time.perf_counter()
    for _ in range(4):
        a = a @ a
        a /= np.abs(a).max()
    times.append(time.perf_counter() - begun)
    if step % every == 0:
        write_ckpt(home / f"m_rank_0-1_{step}.ckpt", {"w": shard}.items(), with_sum=True)
        for old in sorted(home.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)[:-2]:
            old.unlink()
Path("steps.json").write_text(json.dumps(times))
done.touch()
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: the median and the mean time of a step, and how many MB of copies there were."""

    median: float
    mean: float
    copied: float


def measure(folder: Path, copies: int, options: argparse.Namespace) -> Measured:
    """One run on hosts of its own."""
    folder.mkdir()
    cluster = Cluster(
        folder,
        {
            "transport": "local",
            "defaults": {"workdir": str(folder / "hosts" / "{name}"), "devices": "0"},
            "hosts": [{"name": "host[1-2]"}],
            "copy": {"network": "127.0.0.0/8", "ports": "29700-29731"},
        },
    )
    (folder / "rank.py").write_text(RANK)
    words = ["{python}", "rank.py", str(options.steps), str(options.size), str(options.every)]
    job = cluster.job(
        words,
        networking={"mode": "none"},
        devices_per_host=1,
        sync=["rank.py"],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        checkpoint={"copies": copies, "keep": 2},
        timeouts={"grace": 60},
    )
    try:
        done = cluster.launch(job)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        (path,) = folder.glob("hosts/host1/runs/*/steps.json")
        times = json.loads(path.read_text())
        status = cluster.status()["hosts"]["host1"]["status"]
        copied = sum(file["size"] for file in (status.get("copies") or {"files": []})["files"])
        return Measured(statistics.median(times), statistics.mean(times), copied / 1e6)
    finally:
        cluster.close()


def line_of(each: dict[str, Any]) -> str:
    """One round."""
    return (
        f"step {1e3 * each['without']:.2f} ms without, {1e3 * each['with']:.2f} ms with copies: "
        f"{each['ratio']:.3f} × (means: {each['ratio_of_means']:.3f} ×)"
    )


def main() -> int:
    """Measure, and say whether it is as it is to be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=100, help="MB of a shard")
    parser.add_argument("--every", type=int, default=20, help="steps between two saves")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the rank, one for the copier")
    os.sched_setaffinity(0, {cores[-1]})  # and so what is started from here, but for the rank
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-copies-") as home:
        for number in range(options.rounds):
            found = {}
            for copies in ((0, 1), (1, 0))[number % 2]:
                found[copies] = measure(Path(home) / f"{number}-{copies}", copies, options)
            if not found[1].copied:
                raise SystemExit("nothing was copied")
            rounds.append(
                {
                    "without": found[0].median,
                    "with": found[1].median,
                    "ratio": found[1].median / found[0].median,
                    "ratio_of_means": found[1].mean / found[0].mean,
                    "copied_mb": found[1].copied,
                }
            )
            if not options.json:
                print(line_of(rounds[-1]), flush=True)
    ratios = [each["ratio"] for each in rounds]
    goal = Goal("step time with copies", statistics.median(ratios), BOUND, unit="×")
    if options.json:
        print_json({"rounds": rounds, "goal": goal.to_json()})
    else:
        print(f"rounds from {min(ratios):.3f} to {max(ratios):.3f} ×")
        print(goal.line())
    return 0 if goal.holds else 1


if __name__ == "__main__":
    sys.exit(main())
