"""`python -m model VERB`: finds the verb, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# MindSpore reads it when it is imported.
# Seconds that a collective waits on a CPU: 30 without it, less than a neighbour may take to compile.
os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", "1800")

from model.cli import cmd_chat as chat
from model.cli import cmd_convert as convert
from model.cli import cmd_evaluate as evaluate
from model.cli import cmd_export as export
from model.cli import cmd_generate as generate
from model.cli import cmd_infer_mindir as infer_mindir
from model.cli import cmd_predict as predict
from model.cli import cmd_prepare_data as prepare_data
from model.cli import cmd_serve_chat as serve_chat
from model.cli import cmd_train as train
from model.cli.common import guarded
from orchestrator.core.streams import escape_what_streams_lack

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
    escape_what_streams_lack()
    args = _parser().parse_args(argv)
    return guarded(_VERBS[args.verb].run, args)


if __name__ == "__main__":
    sys.exit(main())
