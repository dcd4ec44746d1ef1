"""`python -m model generate`"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli.say import say

HELP = "answer one prompt from a checkpoint file"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="FILE", help="a whole .ckpt or .safetensors")
    add("--prompt", required=True, metavar="TEXT", help="the question, without a template")
    add("--input", default="", metavar="TEXT", help="further context for the question")
    add("--config", type=Path, metavar="FILE", help="default: config.yaml beside the checkpoint")
    add("--tokenizer", type=Path, metavar="FILE", help="default: tokenizer.json beside the checkpoint")
    add("--max-new-tokens", type=int, default=64, metavar="N")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest (default)")
    add("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest (0: all)")
    add("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest that hold P")
    add("--seed", type=int, default=42, metavar="N", help="of the draws")


def run(args: argparse.Namespace) -> None:
    # Late: MindSpore takes seconds to import.
    from model.generation import Sampling
    from model.predict import answer_from_file

    sampling = Sampling(args.max_new_tokens, args.temperature, args.top_k, args.top_p, args.seed)
    say(answer_from_file(args.checkpoint, args.prompt, args.input, sampling, args.config, args.tokenizer))
