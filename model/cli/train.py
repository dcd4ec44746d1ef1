"""`python -m model train`"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from model.cli.say import say
from model.settings import Worker, load_settings

HELP = "train as one worker of a job"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the job's worker.yaml")


def run(args: argparse.Namespace) -> None:
    settings, worker = load_settings(args.config), Worker.from_environment(os.environ)
    # The checks so far need no MindSpore, which takes seconds to import.
    from model.metrics import StepRecord
    from model.session import serve_scheduler
    from model.training import train

    if worker.is_scheduler:
        return serve_scheduler(settings, worker)

    def report(record: StepRecord) -> None:
        say(
            f"step {record.step}/{record.total_steps} loss {record.loss:.4f} lr {record.lr:.3e} "
            f"{record.step_time_s:.3f} s {record.tokens_per_s:.0f} tokens/s"
        )

    train(settings, worker, Path(), report)
