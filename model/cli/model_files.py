"""The options that say which model a verb takes: `--checkpoint`, `--config`, `--tokenizer`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from model.hub import checkpoint_file, tokenizer_file

__all__ = ["TOKENIZER", "ModelFiles", "add_model_files"]

TOKENIZER = "a tokenizer.json, a folder with one, or a model's name"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files that the options stand for; None: the one beside the checkpoint."""

    checkpoint: Path
    config: Path | None
    tokenizer: Path | None

    @staticmethod
    def of(args: argparse.Namespace) -> ModelFiles:
        """Find them; a model that is only a name is loaded and converted. Raises ModelError."""
        tokenizer = tokenizer_file(args.tokenizer) if args.tokenizer else None
        return ModelFiles(checkpoint_file(args.checkpoint), args.config, tokenizer)


def add_model_files(parser: argparse.ArgumentParser, config: str = "config.yaml of a model") -> None:
    """Where the model is; `config` says what `--config` takes."""
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="MODEL",
        help="a whole .ckpt or .safetensors, a folder with one, Hugging Face's folder, or a name such as "
        "bigscience/bloom-560m",
    )
    add("--config", type=Path, metavar="FILE", help=f"{config}; default: config.yaml beside the checkpoint")
    add("--tokenizer", metavar="MODEL", help=f"{TOKENIZER}; default: tokenizer.json beside the checkpoint")
