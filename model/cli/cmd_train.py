"""`python -m model train`"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from model.cli.shared_options import configure, run_as_worker, say
from model.config.settings import Settings, Worker

if TYPE_CHECKING:
    from model.training.metrics import StepRecord

__all__ = ["configure", "run"]


def run(args: argparse.Namespace) -> None:
    run_as_worker(args, _train)


def _train(settings: Settings, worker: Worker) -> None:
    from model.training.trainer import train  # late: MindSpore takes seconds to import

    train(settings, worker, Path(), _report)


def _report(record: StepRecord) -> None:
    say(
        f"step {record.step}/{record.total_steps} loss {record.loss:.4f} lr {record.lr:.3e} "
        f"{record.step_time_s:.3f} s {record.tokens_per_s:.0f} tokens/s"
    )
