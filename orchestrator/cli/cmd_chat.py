"""`orchestrate chat [RUN]`"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterable, Iterator

import click

from orchestrator.cli.options import run_argument
from orchestrator.control.chat import Chat, Message
from orchestrator.control.runs import find_run
from orchestrator.core.errors import AgentError, UsageError

__all__ = ["command", "piped"]


@click.command("chat")
@run_argument
@click.option("--no-history", is_flag=True, help="Every question stands alone.")
def command(run: str | None, no_history: bool) -> int:
    """Talk to a running chat job. Ctrl-C ends an answer, Ctrl-D the chat; the run goes on."""
    control = find_run(run)
    is_person = sys.stdin.isatty()
    failed = False
    with Chat(control, lambda line: click.echo(line, err=True)) as chat:
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
    """One a line, until the end of the input. Raises UsageError for a line of a file that is no text."""
    lines = _typed() if is_person else piped(sys.stdin.buffer, sys.stdin.encoding)
    return (line.strip() for line in lines if line.strip())


def _typed() -> Iterator[str]:
    while True:
        try:
            line = input("> ")
            line.encode()  # what the terminal sent in another encoding comes as halves of surrogate pairs
            yield line
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo("\nCtrl-D ends the chat", err=True)
        except UnicodeError:
            click.echo("orchestrate: that line is not in the terminal's encoding: it was not sent", err=True)


def piped(file: Iterable[bytes], encoding: str) -> Iterator[str]:
    """The lines of a file that is no terminal. Raises UsageError where one is not in its encoding."""
    if codecs.lookup(encoding).name == "ascii":  # where no locale is set
        encoding = "utf-8"
    for number, line in enumerate(file, 1):
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"byte {error.start} is no {encoding}", where=f"line {number} of the questions"
            ) from None


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
