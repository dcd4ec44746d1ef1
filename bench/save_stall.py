"""The stall of a save behind the steps, against the copy of its bytes in memory; real shapes of a model.

    python bench/save_stall.py [--sizes small 560m] [--runs 5] [--json]

The weights of the preset and their moments are float32 tensors in the host's memory, as a rank on a CPU holds
them. Each run copies them once from array to array, into room that was written before, then saves behind the
steps, waits until that is whole, and saves once more as before, while the steps wait. So all three meet what
else the machine does, and the ratio is of one run. Of a save that is waited for the time is that of this
disk, and is told beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GLOG_v", "3")

from bench.report import Goal, Table, print_json  # noqa: E402

SIZES: dict[str, tuple[str, dict[str, int]]] = {
    "small": ("560m", {"num_layers": 4, "vocab_size": 32000}),
    "560m": ("560m", {}),
}
MOST = 1.10  # of the copy's time


@dataclass(slots=True)
class Result:
    """Seconds of each run."""

    size: str
    nbytes: int
    tensors: int
    copies: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Of a stall to the copy of the same run; the median."""
        return statistics.median(stall / copy for stall, copy in zip(self.stalls, self.copies, strict=True))

    def to_json(self) -> dict[str, Any]:
        times = {"copies": self.copies, "stalls": self.stalls, "writes": self.writes, "waits": self.waits}
        return {
            "size": self.size,
            "bytes": self.nbytes,
            "tensors": self.tensors,
            "ratio": self.ratio,
            **times,
        }


def parameters(preset: str, overrides: dict[str, int]) -> list[Any]:
    """The weights of a network, and two moments of each, filled: memory that nobody wrote is not there."""
    import mindspore as ms

    from model.config.load_config import load_config

    ms.set_device("CPU")
    shapes = load_config(preset, overrides).shapes()
    named = (
        (f"{kind}{name}", shape) for kind in ("", "adam_m.", "adam_v.") for name, shape in shapes.items()
    )
    return [ms.Parameter(ms.Tensor(np.full(shape, 0.5, np.float32)), name=name) for name, shape in named]


def measure(size: str, runs: int, folder: Path) -> Result:
    from model.phases import Phases
    from model.training.saver import Saver, ShardFolder
    from model.weights.checkpoint import Progress, shard_contents
    from model.weights.snapshot import Snapshot

    held = parameters(*SIZES[size])
    arrays = [item.asnumpy() for item in held]
    result = Result(size, sum(array.nbytes for array in arrays), len(arrays))
    phases, snapshot, progress = Phases(), Snapshot([array.nbytes for array in arrays]), Progress(1, 1)
    with Saver(ShardFolder(folder / "waits", "bench", 0, 1), phases) as waits:
        waits.save(shard_contents(held, progress), progress, is_last=False)
        assert waits.last is not None
        result.waits.append(waits.last.stall)
    remove(folder)
    with Saver(ShardFolder(folder / "behind", "bench", 0, 1), phases, snapshot) as behind:
        behind.wait()  # for its memory
        for _ in range(runs):
            result.copies.append(copied(arrays, snapshot.buffer))
            behind.save(shard_contents(held, progress), progress, is_last=False)
            behind.wait()
            assert behind.last is not None
            result.stalls.append(behind.last.stall)
            result.writes.append(behind.last.write)
            remove(folder)
    return result


def remove(folder: Path) -> None:
    """So that the disk needs room for one file alone."""
    for path in folder.rglob("*.ckpt"):
        path.unlink()


def copied(arrays: list[Any], room: Any) -> float:
    """The seconds in which all bytes go one after the other into a buffer."""
    begin, start = time.perf_counter(), 0
    for array in arrays:
        stop = start + array.nbytes
        np.copyto(room[start:stop], array.reshape(-1).view(np.uint8))
        start = stop
    return time.perf_counter() - begin


def show(results: list[Result], runs: int) -> None:
    print(f"medians of {runs} runs, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    table = Table(
        "", "GB", "tensors", "copy s", "stall s", "ratio", "spread", "whole after s", "waited for s"
    )
    for one in results:
        ratios = [stall / copy for stall, copy in zip(one.stalls, one.copies, strict=True)]
        medians = [statistics.median(each) for each in (one.copies, one.stalls, one.writes, one.waits)]
        table.add(
            one.size,
            f"{one.nbytes / 1e9:.2f}",
            str(one.tensors),
            f"{medians[0]:.3f}",
            f"{medians[1]:.3f}",
            f"{one.ratio:.3f}",
            f"{min(ratios):.2f}-{max(ratios):.2f}",
            f"{medians[2]:.2f}",
            f"{medians[3]:.2f}",
        )
    table.print()
    print()
    for goal in goals(results):
        print(goal.line())


def goals(results: list[Result]) -> list[Goal]:
    return [Goal(f"{one.size}: stall / copy in memory", one.ratio, MOST) for one in results]


def main() -> int:
    """Measure and print; 1 where something did not work, 0 also where a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["560m"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="save-stall-") as folder:
            results = [measure(size, given.runs, Path(folder)) for size in given.sizes]
    except (OSError, RuntimeError) as error:
        print(f"the bench broke off: {error}", file=sys.stderr)
        return 1
    if given.json:
        print_json(
            {
                "runs": given.runs,
                "results": [one.to_json() for one in results],
                "goals": {g.name: g.to_json() for g in goals(results)},
            }
        )
    else:
        show(results, given.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
