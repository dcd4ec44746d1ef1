"""`python -m model train`"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from model.cli.shared_options import configure, run_as_worker, say
from model.config.settings import Settings, Worker
from model.phases import Phases
from model.training.stop_request import StopRequest
from orchestrator.core.ends import SAVED_EXIT

if TYPE_CHECKING:
    from model.training.metrics import StepRecord

__all__ = ["configure", "run"]


def run(args: argparse.Namespace) -> None:
    run_as_worker(args, _train)


def _train(settings: Settings, worker: Worker, phases: Phases) -> None:
    from model.training.trainer import train  # late: MindSpore takes seconds to import

    trainer = train(settings, worker, Path(), _report, phases=phases, stop=StopRequest())
    if trainer.stopped is not None:
        say(f"stopped by SIGTERM after step {trainer.stopped}, of which a checkpoint is saved")
        # At once: MindSpore's own end may wait for a scheduler that was ended, too, and may crash.
        sys.stderr.flush()
        os._exit(SAVED_EXIT)


def _report(record: StepRecord) -> None:
    say(
        f"step {record.step}/{record.total_steps} loss {record.loss:.4f} lr {record.lr:.3e} "
        f"{record.step_time_s:.3f} s {record.tokens_per_s:.0f} tokens/s"
    )
