"""`python -m model evaluate`"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from model.cli.shared_options import ModelFiles, add_device, add_model_files, device_of, say


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_files(parser)
    add_device(parser)
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="records or MindRecord, as data.path",
    )
    add("--seq-length", type=int, metavar="N", help="default: that of the config")
    add("--limit", type=int, metavar="N", help="only the first N records")
    add("--batch-size", type=int, default=8, metavar="N", help="records at once (default 8)")
    add("--loss-mask", choices=("label", "input"), default="label", help="input: as MindFormers scores")
    add("--whole", action="store_true", help="score the prompts too")
    add("--json", action="store_true", help="one JSON line")


def run(args: argparse.Namespace) -> None:
    device, files = device_of(args), ModelFiles.of(args)
    # Late: MindSpore takes seconds to import.
    from model.inference.evaluate import evaluate
    from orchestrator.config.worker_config import Data

    tokenizer = str(files.tokenizer) if files.tokenizer else None
    found = evaluate(
        files.checkpoint,
        Data(path=str(args.data), tokenizer=tokenizer, seq_length=args.seq_length, limit=args.limit),
        config_file=files.config,
        batch_size=args.batch_size,
        loss_mask=args.loss_mask,
        whole=args.whole,
        device=device,
    )
    if args.json:
        say(json.dumps({**asdict(found), "perplexity": found.perplexity}))
        return
    say(
        f"loss {found.loss:.4f}  perplexity {found.perplexity:.2f}  "
        f"{found.tokens} tokens, {found.records} records"
    )
