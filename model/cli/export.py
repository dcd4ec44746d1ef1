"""`python -m model export`"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli.say import say

HELP = "write the two MindIR graphs, for a prompt and for single tokens"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    help = "config.yaml of a model, or MindFormers' YAML with its `infer` block"
    add("--config", type=Path, metavar="FILE", help=f"{help}; default: config.yaml beside the checkpoint")
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="a whole .ckpt or .safetensors")
    add("--tokenizer", type=Path, metavar="FILE", help="default: tokenizer.json beside the checkpoint")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("mindirs"),
        metavar="DIR",
        help="where no `infer` block says",
    )
    add("--batch-size", type=int, default=1, metavar="N")


def run(args: argparse.Namespace) -> None:
    # Late: MindSpore takes seconds to import.
    from model.export import export

    for path in export(args.checkpoint, args.config, args.tokenizer, args.output, args.batch_size):
        say(f"{path}: written")
