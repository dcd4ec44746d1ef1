"""`python -m model generate`"""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import get_type_hints

from model.cli.shared_options import ModelFiles, add_device, add_model_files, device_of, piece, say
from orchestrator.config.worker_config import Decoding


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_files(parser)
    add_device(parser)
    help_text = "the question; it is put into the template that the model's config names"
    parser.add_argument("--prompt", required=True, metavar="TEXT", help=help_text)
    parser.add_argument("--input", default="", metavar="TEXT", help="further context for the question")
    add_sampling(parser)
    parser.add_argument("--num-beams", type=int, default=1, metavar="N", help="search with N beams")
    parser.add_argument("--stream", action="store_true", help="show the answer while it is made")


def add_sampling(parser: argparse.ArgumentParser, **defaults: int) -> None:
    """How an answer is decoded: what a job says of it, with the same defaults but for these."""
    hints = get_type_hints(Decoding)
    for item in fields(Decoding):
        default = defaults.get(item.name, item.default)
        meaning = f"{item.metadata['description']} (default {default})".replace("%", "%%")
        option = f"--{item.name.replace('_', '-')}"
        parser.add_argument(option, type=hints[item.name], default=default, metavar="N", help=meaning)
    parser.add_argument("--max-length", type=int, metavar="N", help="of prompt and answer together")


def run(args: argparse.Namespace) -> None:
    # Late: NumPy is not needed to show a help text, and MindSpore takes seconds to import.
    from model.inference.sampling import Sampling

    device, sampling, files = device_of(args), Sampling.said_by(args), ModelFiles.of(args)
    from model.config.prompt_templates import wrap
    from model.inference.load_model import open_model

    model = open_model(files.checkpoint, files.config, files.tokenizer, device=device)
    pieces = model.pieces(wrap(args.prompt, args.input, model.config.prompt_template), sampling)
    if not args.stream:
        return say("".join(pieces))
    for text in pieces:
        piece(text)
    say("")
