"""The service as a line of the user's crontab, run once after each boot. No other line is changed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping

from orchestrator.control.service_programs import Programs
from orchestrator.core.errors import PreflightError

__all__ = ["Crontab", "cron_line"]

_MARK = b"# orchestrate-monitors"
# Words that neither cron nor the shell that it calls reads as anything but themselves.
_PLAIN = re.compile(r"[A-Za-z0-9_./:=+,@-]+", re.ASCII)
# What crontab says of an account that has none yet: Debian's and Red Hat's; busybox's.
_NONE_YET = ("no crontab for", "No such file or directory")


def cron_line(argv: tuple[str, ...], env: Mapping[str, str]) -> bytes:
    """The line. Raises PreflightError for words that would need quotes: cron and its shell read it both."""
    words = ["/usr/bin/env", *(f"{name}={_search_path(name, value)}" for name, value in env.items()), *argv]
    for word in words:
        if not _PLAIN.fullmatch(word):
            what = f"{word!r} cannot stand in a crontab as it is"
            raise PreflightError(what, remedy="use paths of letters, digits and . _ - alone")
    return b"@reboot " + " ".join(words).encode("ascii") + b" >/dev/null 2>&1 " + _MARK


def _search_path(name: str, value: str) -> str:
    """Of folders to search for programs those that can be written down."""
    if name != "PATH":
        return value
    return os.pathsep.join(folder for folder in value.split(os.pathsep) if _PLAIN.fullmatch(folder))


def _is_ours(line: bytes) -> bool:
    return line.startswith(b"@reboot ") and line.rstrip().endswith(_MARK)


class Crontab:
    """The crontab of this account."""

    name = "cron"

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def usable(self) -> str:
        if not self._programs.there("crontab"):
            return "there is no crontab"
        try:
            self._lines()
        except PreflightError as error:
            return error.what
        return ""

    def _lines(self) -> list[bytes]:
        """All of it, line by line. Raises PreflightError where it cannot be read: then it is not replaced."""
        answer = self._programs.run("crontab", "-l")
        if answer.code == 0:
            return answer.output.splitlines(keepends=True)
        if any(words in answer.error for words in _NONE_YET):
            return []
        raise PreflightError(f"crontab -l: {answer.last_line or f'exit code {answer.code}'}")

    def _ours(self) -> list[bytes]:
        if not self._programs.there("crontab"):
            return []
        try:
            return [line for line in self._lines() if _is_ours(line)]
        except PreflightError:
            return []

    def installed(self) -> str:
        return "the crontab (@reboot)" if self._ours() else ""

    def install(self, argv: tuple[str, ...], env: Mapping[str, str]) -> list[str]:
        wanted = cron_line(argv, env)
        others = [line for line in self._lines() if not _is_ours(line)]
        if others and not others[-1].endswith(b"\n"):
            others[-1] += b"\n"
        self._write([*others, wanted + b"\n"])
        return ["cron starts them after a boot, if it runs: whether it does cannot be seen from here"]

    def remove(self) -> list[str]:
        lines = self._lines()
        kept = [line for line in lines if not _is_ours(line)]
        if len(kept) < len(lines):
            self._write(kept)
        return []

    def _write(self, lines: list[bytes]) -> None:
        text = b"".join(lines)
        answer = self._programs.run("crontab", "-", given=text)
        if answer.code:
            raise PreflightError(f"crontab: {answer.last_line or f'exit code {answer.code}'}")
        if b"".join(self._lines()).strip() != text.strip():
            what = "the crontab is not what was just written: somebody else has changed it"
            raise PreflightError(what, remedy="look at `crontab -l`")

    def problems(self, argv: tuple[str, ...], env: Mapping[str, str]) -> Iterator[str]:
        (line, *more) = self._ours()
        if more:
            yield "it is there more than once: `orchestrate service install` anew"
        try:
            wanted = cron_line(argv, env)
        except PreflightError as error:
            yield error.what
            return
        if _pins(line) != _pins(wanted):
            yield "it was installed for another state directory or Python: `orchestrate service install` anew"
        if shutil.which("env", path="/usr/bin") is None:
            yield "there is no /usr/bin/env"


def _pins(line: bytes) -> list[bytes]:
    """What must be as it is now: where the state is, and what is run. A PATH may change."""
    return [word for word in line.split() if not word.startswith((b"PATH=", b"PYTHONPATH="))]
