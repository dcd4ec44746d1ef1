"""`python -m model run`: a script for MindFormers, unchanged, also where MindFormers is not installed."""

from __future__ import annotations

import argparse
import importlib.util
import runpy
import sys
import traceback
from pathlib import Path

from model.cli.shared_options import device_of, note, set_log_level
from model.compatibility.module_names import answer_for, known_names
from model.errors import ModelError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        help="cpu, or Ascend:N, in place of what the script says (default: what it says, or the CPU on a "
        "machine without NPUs)",
    )
    parser.add_argument("script", type=Path, metavar="SCRIPT", help="a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="the script's own")


def run(args: argparse.Namespace) -> None:
    if not args.script.is_file():
        raise ModelError("there is no such script", where=str(args.script))
    if importlib.util.find_spec("mindformers") is None:
        answer_for("mindformers", is_whole=True)
        note("mindformers is not installed: `model` answers for it")
        set_log_level("CPU" if args.device is None else device_of(args).target)
        # Late: MindSpore takes seconds to import.
        from model.compatibility.script_context import adapt_mindspore

        adapt_mindspore(device_of(args) if args.device is not None else None)
    sys.argv = [str(args.script), *args.arguments]
    sys.path[0] = str(args.script.absolute().parent)
    try:
        runpy.run_path(str(args.script), run_name="__main__")
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "mindformers":
            raise
        raise _unknown(error, args.script) from error
    except OSError:
        # The script's own: it is told where, as Python does, and not as if it were a fault of our options.
        traceback.print_exc()
        raise SystemExit(1) from None


def _unknown(error: ImportError, script: Path) -> ModelError:
    """What the script imports of MindFormers and nobody answers for, at the line that does."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next((frame for frame in reversed(frames) if "importlib" not in frame.filename), None)
    place = f"{where.filename}:{where.lineno}" if where else str(script)
    remedy = f"install mindformers, or do with {', '.join(known_names())}"
    return ModelError(f"{error.msg.partition(' (unknown location)')[0]}", where=place, remedy=remedy)
