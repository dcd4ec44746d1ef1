"""The command line by which a worker that is a Python program is started, so that it can show its stacks.

`python train.py --lr 1` becomes `python attempts/1/python_stacks.py done/rank_0.can -- train.py --lr 1`, see
`python_stacks`. What is no call of a Python interpreter, or has options that are not known here, is left as
it is; so is every program where the job's `env:` says ORCHESTRATE_STACKS=0.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

__all__ = ["SWITCH", "WRAPPER", "is_switched_off", "source_of_wrapper", "with_stacks"]

SWITCH = "ORCHESTRATE_STACKS"
WRAPPER = "python_stacks.py"
_OFF = frozenset({"0", "no", "off", "false"})
_PYTHON = re.compile(r"python(?:3(?:\.\d+)?)?")
# Options of one letter without a value, and with one (`python --help`); others are not known.
_FLAGS, _WITH_VALUE = frozenset("bBdEIOPqRsSuv"), frozenset("WX")


def is_switched_off(env: Mapping[str, str]) -> bool:
    return env.get(SWITCH, "").strip().lower() in _OFF


def source_of_wrapper() -> bytes:
    """The text of the wrapper, also out of the agent's zip. Raises OSError."""
    loader: Any = globals()["__loader__"]
    data: bytes = loader.get_data(os.path.join(os.path.dirname(__file__), WRAPPER))
    return data


def with_stacks(argv: Sequence[str], wrapper: Path, announced: Path) -> Optional[List[str]]:
    """The same program by way of the wrapper; None where it is to be started as it is."""
    if not argv or not _PYTHON.fullmatch(os.path.basename(argv[0])):
        return None
    found = _program_in(argv)
    if found is None:
        return None
    options, program = found
    return [argv[0], *options, str(wrapper), str(announced), *program]


def _program_in(argv: Sequence[str]) -> Optional[Tuple[List[str], List[str]]]:
    """The interpreter's options, and then the program, with `--`, `-m` or `-c` before it."""
    options: List[str] = []
    words = list(argv[1:])
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            return options, ["--", word, *words]
        letters = word[1:]
        end = next((at for at, letter in enumerate(letters) if letter not in _FLAGS), len(letters))
        if not letters or letters.startswith("-"):
            return None
        if end == len(letters):
            options.append(word)
            continue
        letter, value = letters[end], letters[end + 1 :]
        if letter in ("c", "m"):
            program = [value, *words] if value else words
            flags = [f"-{letters[:end]}"] if end else []
            return (options + flags, [f"-{letter}", *program]) if program else None
        if letter not in _WITH_VALUE or not (value or words):
            return None
        options += [word] if value else [word, words.pop(0)]
    return None
