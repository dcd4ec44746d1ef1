"""`orchestrate answers [RUN]`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import json_option, json_text, meant_run, print_json, run_argument
from orchestrator.control.collect_answers import collect_answers
from orchestrator.core.paths import atomic_write

__all__ = ["command"]


@click.command("answers")
@run_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file; default: print them."
)
@json_option
def command(run: str | None, output: Path | None, as_json: bool) -> int:
    """Gather what a prediction job has answered: JSON lines in the order of its prompts.

    With --json one list of them; with --output too, what was written is told as data.
    """
    control = meant_run(run, started=True)
    answers = collect_answers(control)
    if not answers:
        click.echo(f"orchestrate: {control.run_id}: no prompt has been answered", err=True)
    if output is None and as_json:
        print_json(answers)
        return 0
    if output is None:
        for answer in answers:
            click.echo(json_text(answer, ascii_only=False))
        return 0
    text = "".join(f"{json_text(answer, ascii_only=False)}\n" for answer in answers)
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(output, text, mode=0o644)
    if as_json:
        print_json({"path": str(output), "answers": len(answers)})
    else:
        click.echo(f"{output}: {len(answers)} answers")
    return 0
