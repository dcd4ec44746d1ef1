"""`orchestrate model`: the verbs of `python -m model`, whatever lies in the folder that it is called from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

__all__ = ["command"]

# A folder `model` of the user's must not be taken for ours: ours is the one beside this package.
_BOOT = """
import importlib.util, sys
sys.path[:] = [entry for entry in sys.path if entry]
for name in ("orchestrator", "model"):
    file = f"{sys.argv[1]}/{name}/__init__.py"
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[file[:-12]])
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
from model.__main__ import main
sys.exit(main(sys.argv[2:], "orchestrate model"))
"""


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", metavar="VERB [OPTION]…", nargs=-1, type=click.UNPROCESSED)
def command(words: tuple[str, ...]) -> None:
    """Train, convert, generate, chat, evaluate, export with the bundled model on this machine.

    `orchestrate model --help` lists the verbs, `orchestrate model VERB --help` says what one takes. They are
    those of `python -m model`, and need what `pip install 'orchestrate[worker]'` installs.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, model_argv(words))


def model_argv(words: tuple[str, ...]) -> list[str]:
    """What is executed."""
    home = str(Path(__file__).resolve().parents[2])
    return [sys.executable, "-c", _BOOT, home, *(words or ("--help",))]
