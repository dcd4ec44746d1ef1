"""`python -m model predict`"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from model.cli.say import say
from model.settings import Worker, load_settings

HELP = "answer the job's prompts"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the job's worker.yaml")


def run(args: argparse.Namespace) -> None:
    settings, worker = load_settings(args.config), Worker.from_environment(os.environ)
    # Late: MindSpore takes seconds to import.
    from model.predict import predict
    from model.session import serve_scheduler

    if worker.is_scheduler:
        return serve_scheduler(settings, worker)
    for answer in predict(settings, worker, Path()):
        say(f"{answer.prompt!r}: {answer.text}")
