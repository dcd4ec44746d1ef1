"""The start of an agent on a host: the program that takes in its zip, once a version, and starts it."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from orchestrator.core.errors import (
    AnswerError,
    CommandTimeout,
    OrchestrateError,
    PreflightError,
    TransportError,
)
from orchestrator.hosts.agent_zip import Bundle, agent_bundle, compiled_modules
from orchestrator.hosts.conversation import shown
from orchestrator.hosts.transport import Channel, Deadline, Transport, command_line, words_of

__all__ = ["BOOT", "QUIET", "Bundle", "agent_argv", "agent_bundle", "open_agent"]

_MAGIC = b"orchestrate-agent "
# What a chatty shell start-up file may print before us.
_MOST_LINES = 200
_MOST_BYTES = 256 * 1024
_PIECE = 1 << 18
# After so many silent seconds it is asked whether the account's shell is the one that runs commands.
QUIET = 10.0

# What the command line of every agent has: one line without a character that any shell minds within single
# quotes (tcsh: no newline, no `!`; fish: no backslash). The program itself comes over stdin.
_STUB = (
    'import sys;i=getattr(sys.stdin,"buffer",sys.stdin);'
    'exec(next(l for l in iter(i.readline,b"")if l[:5]==b"exec("))'
)
# Where a start-up file says `exec zsh`, a shell reads stdin and takes this for a command. `_STUB` skips it.
_FOR_A_SHELL = _STUB.replace(";", ';print("orchestrate-agent shell",flush=True);', 1)


def agent_argv(python: str) -> list[str]:
    """The command of an agent: isolated and without site, so that no set-up of the account can break it."""
    return [python, "-I", "-S", "-c", _STUB]


def _shell_line(python: str, program: str) -> bytes:
    return command_line([python, "-I", "-S", "-c", program]) + b"\n"


@cache
def _program() -> bytes:
    return f"exec({BOOT!r})\n".encode("ascii")


class _OtherShell(Exception):
    """The account's start-up files put another shell in the place of the one that runs our command."""


def open_agent(
    transport: Transport,
    python: str,
    workdir: str,
    bundle: Bundle,
    *,
    timeout: float,
    quiet: float = QUIET,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Channel, bytes]:
    """Start an agent on a host: its channel, and what came behind its word that it is ready.

    `timeout` is for each word that is waited for, whatever comes before it; after `quiet` seconds of
    silence it is asked which shell runs there. Raises PreflightError: no fit Python, no agent, a workdir that
    cannot be used; TransportError.
    """
    ask = {"workdir": workdir, "sha256": bundle.sha256, "size": len(bundle.data)}
    boot = _Boot(python, bundle, _program() + json.dumps(ask).encode() + b"\n", timeout, quiet, clock)
    try:
        return boot.start(transport, careful=False)
    except _OtherShell:
        return boot.start(transport, careful=True)


@dataclass(frozen=True, slots=True)
class _Boot:
    python: str
    bundle: Bundle
    program: bytes
    timeout: float
    quiet: float
    clock: Callable[[], float]

    def start(self, transport: Transport, careful: bool) -> tuple[Channel, bytes]:
        """In one go; or, `careful`, for a shell that may read more than one line at once."""
        channel = transport.open(agent_argv(self.python))
        ask = (lambda: None) if careful else (lambda: self.require_own_shell(transport))
        lines = _Lines(channel, self.python, self.quiet, ask)
        channel.timeout = self.timeout
        try:
            with contextlib.suppress(TransportError):  # it ended at once: its words or exit code tell why
                channel.write(_shell_line(self.python, _FOR_A_SHELL) + (b"" if careful else self.program))
            if careful:
                self.await_shell(lines, channel)
            return channel, self.talk(lines, channel)
        except BaseException:
            channel.close()
            raise

    def require_own_shell(self, transport: Transport) -> None:
        """Raise _OtherShell where a command's stdin is read by a shell that should have run the command."""
        with contextlib.suppress(TransportError), transport.open(["true"]) as channel:
            deadline = Deadline(self.quiet, self.clock)
            channel.timeout = self.quiet
            channel.write(_shell_line(self.python, 'print("orchestrate-agent shell")'))
            channel.close_stdin()
            found = bytearray()
            while deadline.left() > 0 and len(found) < _MOST_BYTES and (data := channel.read(4096)):
                channel.timeout = max(0.0, deadline.left())
                found += data
                if _MAGIC in found:
                    raise _OtherShell

    def await_shell(self, lines: _Lines, channel: Channel) -> None:
        try:
            lines.word(Deadline(min(self.timeout, self.quiet), self.clock))
        except CommandTimeout:
            raise PreflightError(
                "the account's start-up files start another shell, which does not run commands",
                where=channel.host,
                remedy="have them `exec` it in interactive shells only",
            ) from None
        channel.timeout = self.timeout
        channel.write(self.program)

    def talk(self, lines: _Lines, channel: Channel) -> bytes:
        word, rest = lines.word(Deadline(self.timeout, self.clock))
        if word == "shell":
            try:
                word, rest = lines.word(Deadline(min(self.timeout, self.quiet), self.clock))
            except CommandTimeout:
                raise _OtherShell from None  # it has read what was meant for the agent
        if word == "need":
            channel.timeout = self.timeout
            data = self.bundle.data + compiled_modules(rest)
            for start in range(0, len(data), _PIECE):
                channel.write(data[start : start + _PIECE])
            word, rest = lines.word(Deadline(self.timeout, self.clock))
        _require_ready(word, rest, channel.host)
        return lines.rest


def _require_ready(word: str, rest: str, host: str) -> None:
    if word == "old":
        raise PreflightError(
            f"Python {rest} is too old for the agent",
            where=host,
            remedy="set `python:` of this host to 3.8 or newer",
        )
    if word == "error":
        raise PreflightError(
            f"cannot use the workdir: {_text(rest)}",
            where=host,
            remedy="free space or give write access there, or set another `workdir:`",
        )
    if word != "ready":
        raise AnswerError(f"what starts the agent says `{word} {rest}`", where=host)


def _text(rest: str) -> str:
    try:
        return shown(json.loads(rest))
    except (ValueError, RecursionError):
        return rest


class _Lines:
    """What comes of a process until its agent speaks: within bounds of lines, bytes and time."""

    def __init__(self, channel: Channel, python: str, quiet: float, on_silence: Callable[[], None]) -> None:
        self._channel = channel
        self._quiet = quiet
        self._python = python
        self._on_silence: Callable[[], None] | None = on_silence
        self._lines = self._bytes = 0
        self._data = bytearray()
        self._noise_before: deque[bytes] = deque(maxlen=3)

    @property
    def rest(self) -> bytes:
        """What came behind the last line."""
        return bytes(self._data)

    def word(self, deadline: Deadline) -> tuple[str, str]:
        """The agent's next word and what it says with it."""
        while True:
            # Anywhere in the line: the noise before it need not end in a newline.
            line = self._line(deadline)
            _, magic, words = line.partition(_MAGIC)
            if not magic:
                self._noise_before.append(line[-400:])
            else:
                self._on_silence = None
                text = shown(words.decode("utf-8", "replace").strip())
                word, _, rest = text.partition(" ")
                return word, rest

    def _line(self, deadline: Deadline) -> bytes:
        searched = 0
        while (end := self._data.find(b"\n", searched)) < 0:
            if self._bytes > _MOST_BYTES:
                raise self._noise(f"{_MOST_BYTES >> 10} KiB")
            searched = len(self._data)
            self._data += self._more(deadline)
        if self._lines >= _MOST_LINES:
            raise self._noise(f"{_MOST_LINES} lines")
        self._lines += 1
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        return line

    def _more(self, deadline: Deadline) -> bytes:
        left = deadline.left()
        if left <= 0:
            raise self._late(deadline)
        is_quiet = self._on_silence is not None and left > self._quiet
        self._channel.timeout = self._quiet if is_quiet else left
        try:
            data = self._channel.read(4096)
        except CommandTimeout:
            if not is_quiet or self._on_silence is None:
                raise self._late(deadline) from None
            ask, self._on_silence = self._on_silence, None
            ask()
            return b""
        if not data:
            raise self._no_agent(left)
        self._bytes += len(data)
        return data

    def _said(self) -> str:
        """What came in the agent's place: of start-up files, a ForceCommand, a tool of the site."""
        return words_of(b"\n".join([*self._noise_before, bytes(self._data[-400:])]))

    def _late(self, deadline: Deadline) -> CommandTimeout:
        said = self._said()
        what = f"no agent within {deadline.seconds:g} s{said and f'; the host says: {said}'}"
        return CommandTimeout(what, where=self._channel.host)

    def _noise(self, what: str) -> OrchestrateError:
        return PreflightError(
            f"the account's shell prints more than {what} before the agent can speak",
            where=self._channel.host,
            remedy="have its start-up files print to interactive shells only",
        )

    def _no_agent(self, left: float) -> OrchestrateError:
        host, python = self._channel.host, self._python
        code = self._channel.wait(max(left, 1.0))
        heard = " / ".join(text for text in (self._said(), self._channel.last_words()) if text)
        if code in (126, 127):
            what = f"no Python at `{python}`{heard and f'; the host says: {heard}'}"
            return PreflightError(what, where=host, remedy="set `python:` of this host")
        said = heard or f"exit code {code}"
        return PreflightError(
            f"the agent did not start: {said}", where=host, remedy=f"try `{python} -V` on the host"
        )


# Runs under any Python there is, so that an old one can say so. It comes over stdin, as what it needs: the
# command line stays constant. The file is written under its hash and never again.
# zipimport compiles every module at each start, and twice, once only to tell its file name: most of the
# agent's start. So the compiled modules are kept beside the zip, for each version of Python, with a checksum.
# A host whose Python is of the version that we run on gets them with the zip.
BOOT = """
import sys
def say(*words):
    sys.stdout.write(" ".join(("orchestrate-agent",) + words) + "\\n"); sys.stdout.flush()
if sys.version_info < (3, 8):
    say("old", sys.version.split()[0]); sys.exit(0)
import json, marshal, os
from _frozen_importlib_external import MAGIC_NUMBER
fresh = {}
try:
    # What hashlib is made of, since 3.12 and before: without OpenSSL, which takes longer to load.
    from _sha2 import sha256
except ImportError:
    try:
        from _sha256 import sha256
    except ImportError:
        from hashlib import sha256
stdin = sys.stdin.buffer
ask = json.loads(stdin.readline())
folder = os.path.join(os.path.expanduser(ask["workdir"]), "agent")
path = os.path.join(folder, ask["sha256"] + ".pyz")
def take_own(where):
    # What lies in it is run: it must be nobody else's.
    os.makedirs(where, 0o700, exist_ok=True)
    seen = os.lstat(where)
    if seen.st_uid != os.geteuid() or seen.st_mode & 0o170000 != 0o040000:
        raise OSError("it is not a folder of this account")
    if seen.st_mode & 0o22:
        os.chmod(where, 0o700)
def part_of(name):
    return "%s.%s" % (name, os.urandom(8).hex())  # hosts may share the folder
try:
    def is_meant(data):
        return sha256(data).hexdigest() == ask["sha256"]
    take_own(folder)
    if not os.path.exists(path) or not is_meant(open(path, "rb").read()):
        say("need", MAGIC_NUMBER.hex())
        data = stdin.read(ask["size"])
        size, checksum = stdin.readline().decode().split()
        packed = stdin.read(int(size))
        if not is_meant(data) or sha256(packed).hexdigest() != checksum:
            raise OSError("the agent arrived damaged")
        part = part_of(path)
        try:
            with open(part, "wb") as file:
                file.write(data)
            os.replace(part, path)
        except OSError:
            os.path.exists(part) and os.remove(part)
            raise
        if packed:
            from zlib import decompress
            fresh = marshal.loads(decompress(packed))
except OSError as error:
    say("error", json.dumps("%s: %s" % (folder, error.strerror or error))); sys.exit(0)
say("ready")
import zipimport
cache = "%s.%s" % (path[:-4], MAGIC_NUMBER.hex())
try:
    take_own(cache)
except OSError:
    cache = ""  # full, or not ours: it is compiled anew
def keep(name, data):
    part = part_of(os.path.join(cache, name))
    try:
        with open(part, "wb") as file:
            file.write(sha256(data).digest() + data)
        os.replace(part, os.path.join(cache, name))
    except OSError:
        try:
            os.remove(part)
        except OSError:
            pass
class Importer(zipimport.zipimporter):
    def get_filename(self, name):
        last = os.path.join(self.archive, self.prefix + name.rpartition(".")[2])
        return os.path.join(last, "__init__.py") if self.is_package(name) else last + ".py"
    def get_code(self, name):
        try:
            with open(os.path.join(cache, name) if cache else "", "rb") as file:
                data = file.read()
            if sha256(data[32:]).digest() == data[:32]:
                return marshal.loads(data[32:])
        except OSError:
            pass
        data = fresh.pop(name, None) or marshal.dumps(zipimport.zipimporter.get_code(self, name))
        if cache:
            keep(name, data)
        return marshal.loads(data)
sys.path_hooks.insert(0, Importer)
sys.path.insert(0, path)
from orchestrator.agent.request_loop import main
main(ask["workdir"])
"""
