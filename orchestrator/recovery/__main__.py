"""The monitor process: `python -m orchestrator.recovery RUN_DIRECTORY [--watch-only]`.

One per run, detached from the terminal that launched it. It may die: the run goes on, and `attach` starts
another one with --watch-only.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from types import FrameType

from orchestrator.control.rare_gc import rare_gc

with rare_gc():
    from orchestrator.control.monitor import Monitor
    from orchestrator.control.monitor_lock import forget_monitor
    from orchestrator.control.shared_heap import share_heap
    from orchestrator.core.paths import ControlDir
    from orchestrator.recovery.run_recovery import recovery_of

log = logging.getLogger("orchestrator.recovery")
# A thread may compute for so many seconds before it must let another: hundreds of them log in at once, and
# each change costs what the caches held.
_TURN = 0.02


def main(argv: list[str]) -> int:
    """Run the monitor of one run to its end. Its lock was taken by who started it, and is inherited."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # paramiko tells of every broken connection on its own; our record does that in one line.
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    if not sys.stdin.buffer.readline():
        return 0  # who started this could not note it: nothing is begun of which nobody could know
    sys.setswitchinterval(_TURN)
    share_heap()
    control = ControlDir(Path(argv[0]))
    monitor = Monitor(control, has_socket=True, recovery_of=recovery_of)

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        monitor.run(watch_only="--watch-only" in argv[1:])
    finally:
        forget_monitor(control)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
