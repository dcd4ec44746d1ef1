"""`python -m model chat`"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from model.cli.cmd_generate import add_sampling
from model.cli.shared_options import ModelFiles, add_device, add_model_files, device_of, piece, say
from model.config.prompt_templates import TEMPLATES
from model.errors import ModelError

if TYPE_CHECKING:
    from model.inference.chat import Chat

KEYS = "Ctrl-C stops an answer, /clear forgets the conversation, /quit or Ctrl-D ends it."


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_files(parser)
    add_device(parser)
    parser.add_argument("--template", choices=TEMPLATES, help="default: the one in the config")
    add_sampling(parser, max_new_tokens=256)


def run(args: argparse.Namespace) -> None:
    # Late: NumPy is not needed to show a help text, and MindSpore takes seconds to import.
    from model.inference.sampling import Sampling

    device, sampling, files = device_of(args), Sampling.said_by(args), ModelFiles.of(args)
    from model.inference.chat import Chat
    from model.inference.load_model import open_model

    model = open_model(files.checkpoint, files.config, files.tokenizer, device=device)
    chat = Chat(
        model.pieces,
        lambda text: len(model.tokenizer.encode(text)),
        sampling=sampling,
        template=args.template or model.config.prompt_template,
        room=model.config.seq_length,
    )
    say(KEYS)
    talk(chat, lambda: input("> "))


def talk(chat: Chat, read: Callable[[], str]) -> None:
    """Question and answer until the input ends."""
    while True:
        try:
            question = read().strip()
            question.encode()
        except EOFError:
            return say("")
        except KeyboardInterrupt:
            say(f"\n{KEYS}")
            continue
        except UnicodeError:
            say("that line is not in the terminal's encoding")
            continue
        if question == "/quit":
            return
        if question == "/clear":
            chat.clear()
        elif question:
            _answer(chat, question)


def _answer(chat: Chat, question: str) -> None:
    pieces = chat.ask(question)
    try:
        for text in pieces:
            piece(text)
    except KeyboardInterrupt:
        piece(" …")
    except ModelError as error:
        piece(f"error: {error}")
    finally:
        pieces.close()  # so that what has come is remembered now
    say("")
