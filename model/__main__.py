"""`python -m model train | predict | generate`: arguments in, lines out; all else is in the other modules."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# MindSpore reads this when it is imported: its warnings on every connection would bury a worker's own lines.
os.environ.setdefault("GLOG_v", "3")

from model.errors import ModelError
from model.settings import Worker, load_settings
from orchestrator.errors import OrchestrateError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model", description="Bloom in MindSpore.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("train", "train as one worker of a job"), ("predict", "answer the job's prompts")):
        job = verbs.add_parser(verb, help=text)
        job.add_argument("--config", type=Path, required=True, metavar="FILE", help="the job's worker.yaml")
    ask = verbs.add_parser("generate", help="answer one prompt from a checkpoint file")
    ask.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE", help="a whole .ckpt or .safetensors"
    )
    ask.add_argument("--prompt", required=True, metavar="TEXT", help="the question, without a template")
    ask.add_argument("--input", default="", metavar="TEXT", help="further context for the question")
    ask.add_argument("--config", type=Path, metavar="FILE", help="default: config.yaml beside the checkpoint")
    ask.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="default: tokenizer.json beside the checkpoint"
    )
    ask.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    ask.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest (default)"
    )
    ask.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K likeliest (0: all)")
    ask.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest that hold P"
    )
    ask.add_argument("--seed", type=int, default=42, metavar="N", help="of the draws")
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


def _train(config: Path) -> None:
    settings, worker = load_settings(config), Worker.from_environment(os.environ)
    # The checks so far need no MindSpore, which takes seconds to import.
    from model.session import serve_scheduler
    from model.training import StepRecord, train

    if worker.is_scheduler:
        return serve_scheduler(settings, worker)

    def report(record: StepRecord) -> None:
        _say(
            f"step {record.step}/{record.total_steps} loss {record.loss:.4f} lr {record.lr:.3e} "
            f"{record.step_time_s:.3f} s {record.tokens_per_s:.0f} tokens/s"
        )

    train(settings, worker, Path(), report)


def _predict(config: Path) -> None:
    settings, worker = load_settings(config), Worker.from_environment(os.environ)
    from model.predict import predict  # brings in MindSpore, see _train
    from model.session import serve_scheduler

    if worker.is_scheduler:
        return serve_scheduler(settings, worker)
    for answer in predict(settings, worker, Path()):
        _say(f"{answer.prompt!r}: {answer.text}")


def _generate(args: argparse.Namespace) -> None:
    from model.generation import Sampling  # brings in MindSpore, see _train
    from model.predict import answer_from_file

    sampling = Sampling(args.max_new_tokens, args.temperature, args.top_k, args.top_p, args.seed)
    _say(answer_from_file(args.checkpoint, args.prompt, args.input, sampling, args.config, args.tokenizer))


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        if args.verb == "generate":
            _generate(args)
        else:
            {"train": _train, "predict": _predict}[args.verb](args.config)
    except (ModelError, OrchestrateError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
