"""A worker that makes steps together with the others of its gang: RANK WORLD FOLDER METRICS [STEPS [TERM]].

It needs nothing but Python. As in training a step ends when all ranks have made it, so that one that is dead
or stands still holds up all: each leaves its last step in a file of FOLDER, which all hosts share here as
they share a network of devices elsewhere. After every `SAVE_EVERY` steps it saves into its host's run folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

IMPORTS, STEP, SAVE_EVERY, SAVE = 0.4, 0.2, 15, 0.4
_LOOK = 0.01
_LONG = 0.5  # who has waited so long for others does not catch up


def main(rank: int, world: int, folder: Path, metrics: Path, steps: int, term: float) -> None:
    def end(number: int, frame: object) -> None:
        time.sleep(term)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    time.sleep(IMPORTS)
    due, step = meet(rank, world, folder, 0, time.monotonic()), 0
    while not steps or step < steps:
        step, due = step + 1, due + STEP
        time.sleep(max(0.0, due - time.monotonic()))
        due = meet(rank, world, folder, step, due)
        tell(metrics, step, steps)
        if step % SAVE_EVERY == 0:
            due += SAVE
            time.sleep(max(0.0, due - time.monotonic()))
            save(metrics.parent.parent / f"saved_{rank}", step)


def meet(rank: int, world: int, folder: Path, step: int, due: float) -> float:
    """Wait until all have come so far; from when on the next step counts."""
    mine = folder / f"rank_{rank}"
    fresh = folder / f".rank_{rank}"
    fresh.write_text(str(step))
    fresh.rename(mine)
    while any(reached(folder / f"rank_{other}") < step for other in range(world)):
        time.sleep(_LOOK)
    now = time.monotonic()
    return now if not step or now - due > _LONG else due


def reached(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return -1


def tell(metrics: Path, step: int, steps: int) -> None:
    line = {"step": step, "total_steps": steps or step, "loss": 2.0, "time": time.time(), "step_time_s": STEP}
    try:
        with metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError:
        pass  # who does not see a step of ours may see the next


def save(path: Path, step: int) -> None:
    """As a shard of a checkpoint; raises OSError where there is no space."""
    fresh = path.with_suffix(".part")
    fresh.write_bytes(step.to_bytes(4, "big") * 65536)
    fresh.rename(path)


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        Path(sys.argv[3]),
        Path(sys.argv[4]),
        int(sys.argv[5]),
        float(sys.argv[6]),
    )
