"""MindFormers' own command line for Hugging Face's weights, `python model/convert_weight.py --n_head …`.

The flags are its flags. `python -m model convert` does the same and more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # A script's own folder comes first on the path, where `import model` finds nothing.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from model.cli.cmd_convert import report
from model.cli.shared_options import bytes_bar, guarded
from model.config.hf_config import load_hf_config
from model.errors import ModelError
from model.weights.convert import DTYPES, Weights, convert_weights, infer_config, sort_weights
from orchestrator.checkpoint.open_checkpoint import find_weights
from orchestrator.families.network_config import NetworkConfig

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Hugging Face's Bloom weights as MindSpore's.")
    add = parser.add_argument
    add("--n_head", type=int, required=True, metavar="N", help="16 for 560m, 32 for 7.1b, 112 for 176b")
    add("--hidden_size", type=int, required=True, metavar="N", help="1024 for 560m, 4096 for 7.1b")
    add(
        "--torch_path",
        type=Path,
        required=True,
        metavar="PATH",
        help="a .bin or .safetensors file, or a folder",
    )
    add(
        "--mindspore_path",
        type=Path,
        required=True,
        metavar="FILE",
        help="the .ckpt or .safetensors to write",
    )
    add("--dtype", choices=list(DTYPES), default="float32", help="default: float32, as MindFormers writes")
    return parser


def _convert(args: argparse.Namespace) -> None:
    weights = sort_weights(args.torch_path, find_weights(args.torch_path))
    if not weights.huggingface:
        raise ModelError("holds MindSpore's weights already", where=str(args.torch_path))
    config = infer_config(weights, args.n_head, args.hidden_size)
    _compare(weights, config)
    target = args.mindspore_path
    with bytes_bar() as progress:
        report(convert_weights(weights, target, config, dtype=args.dtype, progress=progress))


def _compare(weights: Weights, config: NetworkConfig) -> None:
    """What the weights cannot tell, a config.json beside them can: the number of heads."""
    home = weights.path if weights.path.is_dir() else weights.path.parent
    path = home / "config.json"
    if not path.is_file():
        return
    there = load_hf_config(path)
    for flag, given, found in (
        ("--n_head", config.num_heads, there.num_heads),
        ("--hidden_size", config.hidden_size, there.hidden_size),
    ):
        if given != found:
            raise ModelError(f"is {given}, but {path} says {found}", where=flag)


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    return guarded(_convert, args)


if __name__ == "__main__":
    sys.exit(main())
