"""`python -m model predict`"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli.shared_options import configure, run_as_worker, say
from model.config.settings import Settings, Worker
from model.phases import Phases

__all__ = ["configure", "run"]


def run(args: argparse.Namespace) -> None:
    run_as_worker(args, _predict)


def _predict(settings: Settings, worker: Worker, phases: Phases) -> None:
    from model.inference.predict import predict  # late: MindSpore takes seconds to import

    for answer in predict(settings, worker, Path(), phases):
        say(f"{answer.prompt!r}: {answer.text}")
