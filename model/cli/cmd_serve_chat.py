"""`python -m model serve-chat`"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli.shared_options import configure, run_as_worker, say
from model.config.settings import Settings, Worker
from model.phases import Phases

__all__ = ["configure", "run"]


def run(args: argparse.Namespace) -> None:
    run_as_worker(args, _serve)


def _serve(settings: Settings, worker: Worker, phases: Phases) -> None:
    from model.inference.chat_server import serve_chat  # late: MindSpore takes seconds to import

    say("loading the model")
    serve_chat(settings, worker, Path(), phases)
