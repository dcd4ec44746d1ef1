"""`orchestrate chat [RUN]`"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from orchestrator.cli.options import run_argument
from orchestrator.control.chat import Chat, Message
from orchestrator.control.runs import find_run
from orchestrator.core.errors import AgentError

__all__ = ["command"]


@click.command("chat")
@run_argument
@click.option("--no-history", is_flag=True, help="Every question stands alone.")
def command(run: str | None, no_history: bool) -> int:
    """Talk to a running chat job. Ctrl-C ends an answer, Ctrl-D the chat; the run goes on."""
    control = find_run(run)
    is_person = sys.stdin.isatty()
    failed = False
    with Chat(control) as chat:
        if is_person:
            click.echo(f"talking to {control.run_id}; /clear forgets what was said, Ctrl-D ends", err=True)
        history: list[Message] = []
        for question in _questions(is_person):
            if question == "/clear":
                history = []
                continue
            asked = Message("user", question)
            answer, failed = _answer(chat, [*history, asked])
            if not no_history and not failed:
                history += [asked, Message("assistant", answer)]
            if failed and not is_person:
                break
    return 1 if failed and not is_person else 0


def _questions(is_person: bool) -> Iterator[str]:
    """One a line, until the end of the input."""
    while True:
        try:
            line = input("> ") if is_person else sys.stdin.readline()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo("\nCtrl-D ends the chat", err=True)
            continue
        if not line and not is_person:
            return
        if line.strip():
            yield line.strip()


def _answer(chat: Chat, messages: list[Message]) -> tuple[str, bool]:
    """Print one answer as it comes; gives it, and whether it failed."""
    pieces: list[str] = []
    stream = chat.ask(messages)
    try:
        for piece in stream:
            pieces.append(piece)
            click.echo(piece, nl=False)
            sys.stdout.flush()
    except KeyboardInterrupt:
        stream.close()
    except AgentError as error:
        click.echo(f"orchestrate: {error}", err=True)
        return "", True
    click.echo()
    return "".join(pieces), False
