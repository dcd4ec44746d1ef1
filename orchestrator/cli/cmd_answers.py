"""`orchestrate answers [RUN]`"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import run_argument
from orchestrator.control.collect_answers import collect_answers
from orchestrator.control.runs import find_run
from orchestrator.core.paths import atomic_write

__all__ = ["command", "json_line"]

# Control characters, what turns the direction of writing, halves of surrogate pairs, separators of lines.
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def json_line(value: Any) -> str:
    """One line of JSON, readable, in which what a terminal would obey is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(json.dumps(c)[1:-1] if unicodedata.category(c) in _ESCAPED else c for c in text)


@click.command("answers")
@run_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file; default: print them."
)
def command(run: str | None, output: Path | None) -> int:
    """Gather what a prediction job has answered: JSON lines in the order of its prompts."""
    control = find_run(run)
    answers = collect_answers(control)
    text = "".join(f"{json_line(answer)}\n" for answer in answers)
    if output is None:
        click.echo(text, nl=False)
        return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(output, text, mode=0o644)
    click.echo(f"{output}: {len(answers)} answers")
    return 0
