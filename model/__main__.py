"""`python -m model VERB`: finds the verb, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import os
import sys
from collections.abc import Sequence

# MindSpore reads it when it is imported.
# Seconds that a collective waits on a CPU: 30 without it, less than a neighbour may take to compile.
os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", "1800")

from model.cli.shared_options import guarded
from orchestrator.core.visible_text import escape_what_streams_lack, visible

# What each verb does; its module is imported when it is the one that was asked for.
_VERBS = {
    "train": "train as one worker of a job",
    "predict": "answer the job's prompts",
    "generate": "answer one prompt",
    "chat": "talk with a model: answers are streamed, earlier turns are remembered",
    "evaluate": "loss and perplexity of a checkpoint on a data set",
    "prepare-data": "turn records into MindRecord files to train on",
    "convert": "turn weights of Hugging Face's into MindSpore's, or the reverse",
    "serve-chat": "answer the questions of a chat job as one of its workers",
    "export": "write the two MindIR graphs, for a prompt and for single tokens",
    "infer-mindir": "answer from exported MindIR graphs, with the time of every token",
    "run": "run a script that imports mindformers; what it imports is answered here if that is not installed",
}


def _parser(prog: str = "python -m model", only: str = "") -> argparse.ArgumentParser:
    """The parser of the verb `only`, or of all where that is none of them."""
    parser = argparse.ArgumentParser(prog=prog, description="Bloom in MindSpore.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, text in _VERBS.items():
        own = verbs.add_parser(name, help=text)
        if name == only or only not in _VERBS:
            verb = importlib.import_module(f"model.cli.cmd_{name.replace('-', '_')}")
            verb.configure(own)
            own.set_defaults(run=verb.run, refuse=own.error)
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
    words = sys.argv[1:] if argv is None else argv
    if unknown := _unknown_verb(words, prog):
        print(f"error: {unknown}", file=sys.stderr)
        return 2
    parsed: list[argparse.Namespace] = []

    def parse(_: argparse.Namespace) -> None:
        gc.disable()  # what is imported stays: to look for garbage in it is a sixth of the time
        parser = _parser(prog, words[0] if words else "")
        gc.freeze()
        gc.enable()
        options, unknown = parser.parse_known_args(words)
        if unknown:  # said by the verb, whose options it shows: the whole knows those of none
            options.refuse(f"unrecognized arguments: {visible(' '.join(unknown))}")
        parsed.append(options)

    # Guarded, too: a verb's module may need what only a worker has.
    code = guarded(parse, argparse.Namespace())
    return code or guarded(parsed[0].run, parsed[0])


if __name__ == "__main__":
    sys.exit(main())
