"""`orchestrate answers [RUN]`"""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import json_option, json_text, meant_run, print_json, run_argument
from orchestrator.control.collect_answers import Answers, collect_answers
from orchestrator.core.paths import replacing

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
    with collect_answers(control) as answers:
        if not len(answers):
            click.echo(f"orchestrate: {control.run_id}: no prompt has been answered", err=True)
        if output is not None:
            _write(answers, output)
            if as_json:
                print_json({"path": str(output), "answers": len(answers)})
            else:
                click.echo(f"{output}: {len(answers)} answers")
        elif as_json:
            _print_list(answers)
        else:
            for answer in answers:
                click.echo(json_text(answer, ascii_only=False))
    return 0


def _write(answers: Answers, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output, mode=0o644) as file:
        for answer in answers:
            file.write(f"{json_text(answer, ascii_only=False)}\n".encode())


def _print_list(answers: Answers) -> None:
    """As `print_json` prints a list, without all of it in memory."""
    before = "[\n"
    for answer in answers:
        text = json_text(answer, indent=2).replace("\n", "\n  ")
        click.echo(f"{before}  {text}", nl=False)
        before = ",\n"
    click.echo("\n]" if len(answers) else "[]")
