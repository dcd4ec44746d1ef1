"""`python -m model generate`"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from model.cli.common import ModelFiles, add_device, add_model_files, device_of, piece, say

if TYPE_CHECKING:
    from model.inference.sampling import Sampling

HELP = "answer one prompt"


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_files(parser)
    add_device(parser)
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="the question, without a template")
    parser.add_argument("--input", default="", metavar="TEXT", help="further context for the question")
    add_sampling(parser)
    parser.add_argument("--num-beams", type=int, default=1, metavar="N", help="search with N beams")
    parser.add_argument("--stream", action="store_true", help="show the answer while it is made")


def add_sampling(parser: argparse.ArgumentParser, tokens: int = 64) -> None:
    """How an answer is decoded."""
    add = parser.add_argument
    add("--max-new-tokens", type=int, default=tokens, metavar="N")
    add("--max-length", type=int, metavar="N", help="of prompt and answer together")
    add("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest (default)")
    add("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest (0: all)")
    add("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest that hold P")
    add("--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1: say nothing twice")
    add("--seed", type=int, default=42, metavar="N", help="of the draws")


def sampling_of(args: argparse.Namespace) -> Sampling:
    """What the options say, checked."""
    from model.inference.sampling import (
        Sampling,  # late, with the others: NumPy is not needed to show a help text
    )

    sampling = Sampling(
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
        max_length=args.max_length,
        repetition_penalty=args.repetition_penalty,
        num_beams=getattr(args, "num_beams", 1),
    )
    sampling.check()
    return sampling


def run(args: argparse.Namespace) -> None:
    device, sampling, files = device_of(args), sampling_of(args), ModelFiles.of(args)
    # Late: MindSpore takes seconds to import.
    from model.config.prompt_templates import wrap
    from model.inference.load_model import open_model

    model = open_model(files.checkpoint, files.config, files.tokenizer, device=device)
    pieces = model.pieces(wrap(args.prompt, args.input, model.config.prompt_template), sampling)
    if not args.stream:
        return say("".join(pieces).strip())
    for text in pieces:
        piece(text)
    say("")
