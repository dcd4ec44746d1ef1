"""`python -m model convert`"""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli.shared_options import add_json, bytes_bar, say, say_data
from model.weights.convert import DTYPES, Converted, convert
from orchestrator.checkpoint.hf_layout import HF_FORMS


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Whose weights they are, their names tell. Hugging Face's (*.safetensors or pytorch_model*.bin, one "
        "file or shards with an index) become one .ckpt or .safetensors; MindSpore's become a new folder."
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="a file, or a folder as it was downloaded")
    add("target", type=Path, metavar="TARGET", help="a .ckpt or .safetensors file, or a folder")
    add(
        "--format",
        choices=list(HF_FORMS),
        help="of Hugging Face's weights: safetensors (default), or bin, as PyTorch saves them",
    )
    add("--dtype", choices=list(DTYPES), help="default: the types that are there")
    add(
        "--config",
        type=Path,
        metavar="FILE",
        help="default: config.json or config.yaml beside the weights; a preset's name too",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    with bytes_bar() as progress:
        converted = convert(
            args.source,
            args.target,
            dtype=args.dtype,
            form=args.format,
            config=args.config,
            progress=progress,
        )
    if args.json:
        written = converted.path
        files = [path for path in written.iterdir() if path.is_file()] if written.is_dir() else [written]
        size = sum(path.stat().st_size for path in files)
        what = {"path": str(written), "names": "huggingface" if converted.huggingface else "mindspore"}
        say_data({**what, "tensors": converted.tensors, "bytes": size, "notes": list(converted.notes)})
    else:
        report(converted)


def report(converted: Converted) -> None:
    """One line of what was written, and one for each note."""
    kind = "Hugging Face's" if converted.huggingface else "MindSpore's"
    say(f"{converted.path}: {converted.tensors} tensors under {kind} names")
    for note in converted.notes:
        say(f"note: {note}")
