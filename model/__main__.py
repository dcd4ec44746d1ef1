"""`python -m model VERB`: finds the verb, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# MindSpore reads it when it is imported.
# Seconds that a collective waits on a CPU: 30 without it, less than a neighbour may take to compile.
os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", "1800")

from model.cli import (
    chat,
    convert,
    evaluate,
    export,
    generate,
    infer_mindir,
    predict,
    prepare_data,
    serve_chat,
    train,
)
from model.cli.errors import guarded

_VERBS = {
    "train": train,
    "predict": predict,
    "generate": generate,
    "chat": chat,
    "evaluate": evaluate,
    "prepare-data": prepare_data,
    "convert": convert,
    "serve-chat": serve_chat,
    "export": export,
    "infer-mindir": infer_mindir,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model", description="Bloom in MindSpore.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, verb in _VERBS.items():
        verb.configure(verbs.add_parser(name, help=verb.HELP))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return guarded(_VERBS[args.verb].run, args)


if __name__ == "__main__":
    sys.exit(main())
