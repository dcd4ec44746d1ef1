"""`python -m model export`"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli.shared_options import (
    ModelFiles,
    add_device,
    add_json,
    add_model_files,
    device_of,
    say,
    say_data,
)


def configure(parser: argparse.ArgumentParser) -> None:
    what = "config.yaml of a model, or MindFormers' YAML with its `infer` block"
    add_model_files(parser, what, "--config_path", needs_checkpoint=False)
    add_device(parser)
    add = parser.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("mindirs"),
        metavar="DIR",
        help="where no `infer` block says",
    )
    add("--batch-size", type=int, default=1, metavar="N")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    device, files = device_of(args), ModelFiles.of(args)
    # Late: MindSpore takes seconds to import.
    from model.inference.mindir import export

    batch = args.batch_size
    made = export(files.checkpoint, files.config, files.tokenizer, args.output, batch, device)
    if args.json:
        say_data({"files": [{"path": str(path), "bytes": path.stat().st_size} for path in made]})
        return
    for path in made:
        say(f"{path}: written")
