"""`python -m model serve-chat`"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from model.cli.say import say
from model.settings import Worker, load_settings

HELP = "answer the questions of a chat job as one of its workers"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the job's worker.yaml")


def run(args: argparse.Namespace) -> None:
    settings, worker = load_settings(args.config), Worker.from_environment(os.environ)
    # Late: MindSpore takes seconds to import.
    from model.serve_chat import serve_chat
    from model.session import serve_scheduler

    if worker.is_scheduler:
        return serve_scheduler(settings, worker)
    say("loading the model")
    serve_chat(settings, worker, Path())
