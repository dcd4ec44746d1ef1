"""`python -m model infer-mindir`"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from model.cli.shared_options import add_device, device_of, note, say
from model.devices.device_name import npus_left_alone
from model.errors import ModelError
from orchestrator.families.registry import families


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--prefill_model_path", type=Path, required=True, metavar="FILE", help="the graph that reads a prompt"
    )
    add(
        "--increment_model_path",
        type=Path,
        required=True,
        metavar="FILE",
        help="the graph that reads a token",
    )
    add("--config_path", type=Path, metavar="FILE", help="MindSpore Lite's context.cfg")
    add("--seq_length", type=int, metavar="N", help="of the graphs; default: as in config.yaml beside them")
    add_device(parser)
    add("--device_id", type=int, metavar="N", help="an NPU, as --device Ascend:N (default 0)")
    names = [family.name for family in families()]
    add("--model_name", default=names[0], choices=names, help=" or ".join(names))
    add("--is_sample_acceleration", default="False", choices=["True", "False"], help="only False")
    add("--tokenizer", type=Path, metavar="FILE", help="default: tokenizer.json beside the graphs")
    add("--prompt", metavar="TEXT", help="default: asked for, or every line of the input")
    add("--template", action="store_true", help="put the prompt into the model's template")
    add("--max-new-tokens", type=int, default=64, metavar="N")


def run(args: argparse.Namespace) -> None:
    is_lite = importlib.util.find_spec("mindspore_lite") is not None
    device_id = _device_id(args)
    if args.device_id is not None and not is_lite:
        args.device = _instead_of_lite(device_id)
    # MindSpore Lite is there for an NPU.
    device = None if is_lite and args.device is None else device_of(args)
    # Late: MindSpore takes seconds to import.
    from model.inference.mindir import open_graphs

    graphs = open_graphs(
        args.prefill_model_path,
        args.increment_model_path,
        seq_length=args.seq_length,
        tokenizer_file=args.tokenizer,
        device_id=device_id,
        context_file=args.config_path,
        sample_acceleration=args.is_sample_acceleration == "True",
        device=device,
    )
    for prompt in _prompts(args.prompt):
        answer = graphs.answer(
            prompt,
            args.max_new_tokens,
            in_template=args.template,
            token_took=lambda seconds: say(f"one token takes {seconds} s"),
        )
        say(str([answer]))


def _device_id(args: argparse.Namespace) -> int:
    """The NPU that is asked for by its number, 0 where none is. Raises ModelError where that means none."""
    given: int | None = args.device_id
    if given is None:
        return 0
    if given < 0:
        raise ModelError(f"is {given}, but NPUs are counted from 0 on", where="--device_id")
    if args.device is not None:
        raise ModelError("is given beside --device", where="--device_id", remedy="keep one of them")
    return given


def _instead_of_lite(device_id: int, devices: Path = Path("/dev")) -> str:
    """Where MindSpore answers in place of Lite: on that NPU, or on the CPU of a machine without any."""
    if npus_left_alone(devices) is not None:
        return f"Ascend:{device_id}"
    note(f"--device_id {device_id}: this machine has no NPU: the CPU computes")
    return "cpu"


def _prompts(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    if sys.stdin.isatty():
        say("Please enter your predict data:")
    try:
        for line in sys.stdin:
            if line.strip():
                yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"is no {sys.stdin.encoding}: {error}", where="the input") from None
