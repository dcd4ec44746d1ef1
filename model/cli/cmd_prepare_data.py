"""`python -m model prepare-data`, also with the flags of MindFormers' make_mindrecord.py."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from model.cli.shared_options import TOKENIZER, add_json, note, say, say_data, set_log_level
from model.config.prompt_templates import TEMPLATES
from model.data.prepare import Progress, Request, Summary, prepare
from model.weights.hub import tokenizer_file
from orchestrator.core.number_ranges import fold_numbers
from orchestrator.formats.text_records import FORMATS

_DEFAULT_TOKENIZER = "bloom_560m"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--input", "--input_dataset_file", type=Path, required=True, metavar="FILE",
        help="Alpaca JSON, JSON lines (BELLE) or plain text, documents separated by empty lines",
    )  # fmt: skip
    add(
        "--output", "--output_path", type=Path, required=True, metavar="FOLDER",
        help="where dataset.mindrecord goes; or a file name that ends with .mindrecord",
    )  # fmt: skip
    add(
        "--tokenizer", metavar="MODEL",
        help=f"{TOKENIZER} (default {_DEFAULT_TOKENIZER}, as MindFormers' script; that is said)",
    )  # fmt: skip
    add(
        "--seq-length", "--seq_length", type=int, default=2049, metavar="N",
        help="ids a row: one more than the model's seq_length (default 2049)",
    )  # fmt: skip
    add("--limit", "--N", type=int, default=-1, metavar="N", help="only the first N records (-1: all)")
    add("--format", choices=FORMATS, help="default: what the file looks like")
    add("--template", choices=TEMPLATES, help="default: belle for JSON lines, alpaca for all else")
    add(
        "--for-finetune", "--for_finetune", type=int, choices=(0, 1), default=1,
        help="0: learn the prompt too (default 1: only the answer)",
    )  # fmt: skip
    add("--pack", action="store_true", help="several records a row instead of padding")
    add("--shards", type=int, default=1, metavar="N", help="so many files, each with a writer of its own")
    add(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
        help="processes that tokenize; 0: all in one (default: one a core)",
    )  # fmt: skip
    add("--strict", action="store_true", help="stop at the first record that is none")
    add("--overwrite", action="store_true", help="replace files that are there")
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    set_log_level("CPU")
    if args.tokenizer is None:
        args.tokenizer = _DEFAULT_TOKENIZER
        note(f"the tokenizer is that of {args.tokenizer}; --tokenizer names another")
    request = Request(
        input=args.input,
        output=args.output,
        tokenizer=tokenizer_file(args.tokenizer),
        length=args.seq_length,
        limit=None if args.limit == -1 else args.limit,
        kind=args.format,
        template=args.template,
        whole=not args.for_finetune,
        pack=args.pack,
        shards=args.shards,
        workers=args.workers,
        strict=args.strict,
        overwrite=args.overwrite,
    )
    summary = prepare(request, _Progress())
    if summary.unread:
        print(f"note: {request.input}: {summary.unread}", file=sys.stderr, flush=True)
    if args.json:
        say_data(_data(summary, request))
        return
    for line in _lines(summary, request):
        say(line)


class _Progress:
    """A line on the terminal that is overwritten, or one every ten seconds in a log."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._next = time.monotonic() + (0 if self._live else 10)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        is_over = progress.done == progress.total
        if now < self._next and not (is_over and self._live):
            return
        self._next = now + (0.2 if self._live else 10)
        share = 100 * progress.done / progress.total
        text = f"{share:5.1f} % read, {progress.records} records"
        print(
            f"\r{text}" if self._live else text, end="" if self._live else "\n", file=sys.stderr, flush=True
        )


def _data(summary: Summary, request: Request) -> dict[str, object]:
    bad = [{"record": index, "why": why} for index, why in summary.bad]
    return {
        "files": [str(path) for path in summary.files],
        "bytes": sum(path.stat().st_size for path in summary.files),
        "records": summary.records,
        "rows": summary.rows,
        "seq_length": request.length,
        "tokens": summary.tokens,
        "padding": round(summary.padding, 4),
        "longest": summary.longest,
        "cut": summary.cut,
        "skipped": list(summary.skipped),
        "bad": bad,
        "seconds": round(summary.seconds, 3),
    }


def _lines(summary: Summary, request: Request) -> list[str]:
    rate = summary.records / summary.seconds
    lines = [
        f"{summary.records} records in {summary.seconds:.1f} s ({rate:.0f} records/s)",
        f"{summary.rows} rows of {request.length} ids, {summary.tokens} tokens in them, "
        f"{summary.padding:.1%} padding",
        f"longest record {summary.longest} tokens; {summary.cut} were cut",
    ]
    if summary.skipped:
        records = fold_numbers(summary.skipped)
        lines.append(f"{len(summary.skipped)} skipped, their prompt fills a row: {records}")
    if summary.bad:
        lines.append(f"{len(summary.bad)} bad records: {fold_numbers([index for index, _ in summary.bad])}")
        lines += [f"record {index}: {why}" for index, why in summary.bad[:10]]
    return [*lines, *(f"wrote {path}" for path in summary.files)]
