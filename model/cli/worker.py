"""What the verbs that run as one worker of a job have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from model.cli.device import set_log_level
from model.done import marked_done
from model.settings import Settings, Worker, load_settings

__all__ = ["configure", "run_as_worker"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the job's worker.yaml")


def run_as_worker(args: argparse.Namespace, work: Callable[[Settings, Worker], None]) -> None:
    """Do `work`, or what a scheduler does where the environment says that this process is one."""
    # The checks need no MindSpore, which takes seconds to import.
    settings, worker = load_settings(args.config), Worker.from_environment(os.environ)
    set_log_level(settings.device_target)
    if worker.is_scheduler:
        from model.session import serve_scheduler  # late, as above

        return serve_scheduler(settings, worker)
    with marked_done(worker.rank):
        work(settings, worker)
