"""A worker that only says how far it is: a line of metrics every two seconds, as a bundled one writes.

On SIGTERM it notes when that came, and ends at once. Standard library only, and little of it: hundreds of
these share a machine.
"""

import json
import os
import signal
import time

SECONDS = 2.0


def main() -> None:
    rank = os.environ["RANK_ID"]
    with open(f"pid_{rank}", "w") as file:
        file.write(str(os.getpid()))

    def told(number: int, frame: object) -> None:
        with open(f"told_{rank}.part", "w") as file:
            file.write(repr(time.time()))
        os.replace(f"told_{rank}.part", f"told_{rank}")
        os._exit(0)

    signal.signal(signal.SIGTERM, told)
    step, due = 0, time.monotonic()
    with open(f"metrics/rank_{rank}.jsonl", "a", buffering=1) as metrics:
        while True:
            step += 1
            line = {"step": step, "total_steps": 100_000, "loss": 1.0 + 1.0 / step, "lr": 1e-4}
            line.update(tokens_per_s=4096.0, time=time.time())
            metrics.write(json.dumps(line) + "\n")
            due += SECONDS
            time.sleep(max(0.0, due - time.monotonic()))


main()
