"""A program with one verb per test: a script of real transports, a thread (`main`) of a scripted one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import IO

Stream = IO[bytes]


def main(argv: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    verb, *rest = argv[argv.index("--") + 1 :]
    return VERBS[verb](rest, stdin, stdout, stderr)


def show(words: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    stdout.write(repr(words).encode("utf-8", "surrogateescape"))
    return 0


def leave(words: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    return int(words[0])


def die(words: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    if __name__ == "__main__":
        os.kill(os.getpid(), getattr(signal, words[0]))
    return -int(getattr(signal, words[0]))


def echo(words: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    while data := stdin.read1(65536):  # type: ignore[attr-defined]
        stdout.write(data)
        stdout.flush()
    return 0


def flood(words: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    """Far more on stderr than any window holds, while nobody asks for it; then one line on stdout."""
    for _ in range(int(words[0])):
        stderr.write(b"x" * 65535 + b"\n")
    stderr.write(b"the last words\n")
    stdout.write(b"done\n")
    return 3


def pour(words: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    block = bytes(range(256)) * 4096
    for _ in range(int(words[0])):
        stdout.write(block)
    return 0


def hang(words: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    """Says hello and then nothing until stdin ends."""
    stdout.write(b"hello\n")
    stdout.flush()
    stdin.read()
    return 0


def deaf(words: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    """Never reads; ends at once."""
    stdout.write(b"not listening")
    return 0


def stubborn(words: list[str], stdin: Stream, stdout: Stream, stderr: Stream) -> int:
    """Tells its pid and stays, whatever happens to its streams."""
    stdout.write(b"%d\n" % os.getpid())
    stdout.flush()
    time.sleep(60)
    return 0


Verb = Callable[[list[str], Stream, Stream, Stream], int]
VERBS: dict[str, Verb] = {
    verb.__name__: verb for verb in (show, leave, die, echo, flood, pour, hang, deaf, stubborn)
}

if __name__ == "__main__":
    sys.exit(main(sys.argv, sys.stdin.buffer, sys.stdout.buffer, sys.stderr.buffer))
