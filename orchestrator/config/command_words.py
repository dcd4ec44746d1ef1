"""The words of a `command`: what is filled in in them, and which of them names the program's script."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from orchestrator.config.yaml_messages import show

__all__ = ["FILLED", "script_of", "script_on_hosts", "unknown_placeholders"]

# Filled in on each host, in `command` and nowhere else.
FILLED = ("python", "rank", "run_dir")

_BRACES = re.compile(r"(?<![${])\{([A-Za-z][A-Za-z0-9_-]*)\}(?!\})")
_LONGEST_NAME = 32
# Text in a programming language has braces of its own.
_CODE = re.compile(r"[\s;()'\"`]")
_PYTHON = re.compile(r"\{python\}|python[0-9.]*")
_SHELL = re.compile(r"bash|sh|dash|zsh|ksh")
# Of interpreters: options that take the next word, and those after which no script comes.
_TAKES_WORD = {
    _PYTHON: frozenset({"-W", "-X", "-Q"}),
    _SHELL: frozenset({"-o", "-O", "+o", "+O", "--rcfile", "--init-file"}),
}
_NO_SCRIPT = re.compile(r"-[A-Za-z]*[cm]|-s|-|--version|-V|--help|-h")
_SUFFIXES = (".py", ".sh", ".bash", ".zsh", ".pl", ".rb", ".js", ".ipynb")


def unknown_placeholders(word: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a word and what to do, for each `{name}` in it that nobody fills in.

    In text that is code, where braces mean something else, only what is nearly one of ours.
    """
    is_code = bool(_CODE.search(word))
    seen: set[str] = set()
    for found in _BRACES.finditer(word):
        name = found[1]
        if name in FILLED or name in seen or len(name) > _LONGEST_NAME:
            continue
        seen.add(name)
        close = difflib.get_close_matches(name.lower(), FILLED, n=1, cutoff=0.7)
        if close:
            yield f"{show(found[0])} is not filled in", f"did you mean `{{{close[0]}}}`?"
        elif not is_code:
            known = ", ".join(f"{{{one}}}" for one in FILLED)
            yield f"{show(found[0])} is not filled in", f"known: {known}; of the rest the environment tells"


def script_of(command: Sequence[str]) -> int | None:
    """Which word is the script: the program, where it is a relative path, or what an interpreter is given.

    None where there is none, as after `-c` and `-m`, or where it is a program of the hosts.
    """
    index = _script(command)
    if index is None or command[index].startswith(("/", "{")):
        return None
    return index


def script_on_hosts(command: Sequence[str]) -> str | None:
    """The script, or the program without one, where it is an absolute path, which is the hosts'."""
    index = _script(command)
    word = command[index if index is not None else 0] if command else ""
    return word if word.startswith("/") and "{" not in word else None


def _script(command: Sequence[str]) -> int | None:
    if not command:
        return None
    program = command[0]
    name = PurePosixPath(program).name
    takes_word = next((words for known, words in _TAKES_WORD.items() if known.fullmatch(name)), None)
    if takes_word is None:
        return 0 if "/" in program or program.endswith(_SUFFIXES) else None
    index = 1
    while index < len(command):
        word = command[index]
        if _NO_SCRIPT.fullmatch(word):
            return None
        if not word.startswith(("-", "+")):
            return index
        index += 2 if word in takes_word else 1
    return None
