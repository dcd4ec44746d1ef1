"""`python -m model VERB`: finds the verb, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

# MindSpore reads it when it is imported.
# Seconds that a collective waits on a CPU: 30 without it, less than a neighbour may take to compile.
os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", "1800")

from model.cli.shared_options import guarded
from orchestrator.core.visible_text import escape_what_streams_lack, visible

_VERBS = (
    "train",
    "predict",
    "generate",
    "chat",
    "evaluate",
    "prepare-data",
    "convert",
    "serve-chat",
    "export",
    "infer-mindir",
    "run",
)


def _parser(prog: str = "python -m model") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Bloom in MindSpore.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in _VERBS:
        verb = importlib.import_module(f"model.cli.cmd_{name.replace('-', '_')}")
        own = verbs.add_parser(name, help=verb.HELP)
        verb.configure(own)
        own.set_defaults(run=verb.run)
    return parser


def _unknown_verb(words: Sequence[str], prog: str) -> str:
    """What to say of a first word that is no verb; nothing where it may be one."""
    name = words[0] if words else "-"
    if name.startswith("-") or name in _VERBS:
        return ""
    near = difflib.get_close_matches(name[:100], _VERBS, n=2, cutoff=0.6)
    near += [verb for verb in _VERBS if name in verb.split("-") and verb not in near]
    meant = f" (did you mean {' or '.join(f'`{verb}`' for verb in near)}?)" if near else ""
    return f"no such verb `{visible(name[:100])}`{meant}; all of them: {prog} --help"


def main(argv: Sequence[str] | None = None, prog: str = "python -m model") -> int:
    escape_what_streams_lack()
    if unknown := _unknown_verb(sys.argv[1:] if argv is None else argv, prog):
        print(f"error: {unknown}", file=sys.stderr)
        return 2
    parsed: list[argparse.Namespace] = []
    # In it, too: a verb's module may need what only a worker has.
    code = guarded(lambda _: parsed.append(_parser(prog).parse_args(argv)), argparse.Namespace())
    return code or guarded(parsed[0].run, parsed[0])


if __name__ == "__main__":
    sys.exit(main())
