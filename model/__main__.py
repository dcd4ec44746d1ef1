"""`python -m model VERB`: finds the verb, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# MindSpore reads this when it is imported: its warnings on every connection would bury a worker's own lines.
os.environ.setdefault("GLOG_v", "3")

from model.cli import generate, predict, train
from model.errors import ModelError
from orchestrator.errors import OrchestrateError

_VERBS = {"train": train, "predict": predict, "generate": generate}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model", description="Bloom in MindSpore.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, verb in _VERBS.items():
        verb.configure(verbs.add_parser(name, help=verb.HELP))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        _VERBS[args.verb].run(args)
    except (ModelError, OrchestrateError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
