"""A program whose ranks meet at each step, as those of a training do, and one of which something befalls.

    python meeting_ranks.py RANK WORLD FOLDER METRICS STEPS KIND VICTIM

They meet through files in FOLDER; in METRICS each tells its steps. At a step, `loop` has the victim compute
for ever while the others wait for it, `alone` has all wait for somebody who never comes, and `fail` has the
victim fail, and the others because of it, who end first.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

__all__ = ["AT", "STEP"]

STEP, AT = 0.1, 20


class Ranks:
    def __init__(self, rank: int, world: int, folder: Path) -> None:
        self.rank, self.world, self.folder = rank, world, folder

    def all_reduce(self, step: int) -> None:
        """Wait until all have come so far."""
        fresh = self.folder / f".{self.rank}"
        fresh.write_text(str(step))
        fresh.rename(self.folder / str(self.rank))
        begin = time.monotonic()
        while any(self.reached(other) < step for other in range(self.world)):
            if (self.folder / "failed").exists():
                raise RuntimeError("all_reduce: connection closed by peer")
            # As in a real one, who waits for long is on one line: else it is seen on another than the others.
            time.sleep(0.01 if time.monotonic() < begin + 1.0 else 0.25)

    def all_gather(self) -> None:
        while True:
            time.sleep(0.05)

    def reached(self, rank: int) -> int:
        try:
            return int((self.folder / str(rank)).read_text())
        except FileNotFoundError:
            return -1


def load_batch() -> None:
    while True:
        time.monotonic()


def fail(folder: Path) -> None:
    """As who still waits for its threads, say, when the others have noticed."""
    try:
        raise ValueError("the batch has another shape")
    except ValueError:
        traceback.print_exc()
        sys.stderr.flush()
        (folder / "failed").touch()
        time.sleep(60)
        raise


def main(rank: int, world: int, folder: Path, metrics: Path, steps: int, kind: str, victim: int) -> None:
    ranks = Ranks(rank, world, folder)
    for step in range(1, steps + 1):
        time.sleep(STEP)
        if step == AT and kind == "alone":
            ranks.all_gather()
        if step == AT and rank == victim and kind == "loop":
            load_batch()
        if step == AT and rank == victim and kind == "fail":
            fail(folder)
        ranks.all_reduce(step)
        line = {"step": step, "total_steps": steps, "loss": 2.0, "time": time.time(), "step_time_s": STEP}
        with metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(int(given[0]), int(given[1]), Path(given[2]), Path(given[3]), int(given[4]), given[5], int(given[6]))
