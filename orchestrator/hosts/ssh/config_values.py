"""Small parts of OpenSSH's reading of a configuration: patterns, tokens, `~`, addresses, commands."""

from __future__ import annotations

import functools
import getpass
import os
import pwd
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from orchestrator.hosts.ssh.config_lines import Doubt

__all__ = [
    "at_home",
    "expand",
    "fits",
    "host_name_here",
    "in_list",
    "is_host",
    "is_safe",
    "is_same_file",
    "plain_address",
    "run_in_shell",
    "user_name_here",
]

_EXEC_SECONDS = 30.0


def expand(text: str, tokens: Mapping[str, str], environment: Mapping[str, str] | None, where: str) -> str:
    """Text with `%x` and, given an environment, `${NAME}` replaced. Raises Doubt for unknown ones."""

    def value(found: re.Match[str]) -> str:
        name = found[0]
        if name == "%%":
            return "%"
        if name.startswith("%") and name[1:] in tokens:
            return tokens[name[1:]]
        if name.startswith("${") and environment is not None and found[1] in environment:
            return environment[found[1]]
        raise Doubt(where, f"has {name} in {text!r}, which has no value here")

    pattern = r"%(?s:.)?" if environment is None else r"%(?s:.)?|\$\{([^}]*)\}?"
    return re.sub(pattern, value, text)


def at_home(path: str, home: str) -> str:
    """`~` replaced; `~name` by whoever that is."""
    if not path.startswith("~"):
        return path
    if path == "~" or path.startswith("~/"):
        return f"{home.rstrip('/')}/{path[2:].lstrip('/')}"
    return os.path.expanduser(path)


def is_same_file(path: str, other: str) -> bool:
    """Whether two paths lead to one file, or would if it were there."""
    try:
        return path == other or os.path.samefile(path, other)
    except OSError:  # one of them is not there, so that they are the same only if neither is
        return not os.path.exists(path) and os.path.realpath(path) == os.path.realpath(other)


def is_host(host: str, patterns: tuple[str, ...]) -> bool:
    """A Host line: one pattern fits, and no negated one."""
    found = False
    for pattern in patterns:
        if fits(host, pattern.removeprefix("!")):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def in_list(text: str, patterns: str) -> bool:
    """`match_pattern_list`: patterns between commas."""
    return is_host(text, tuple(patterns.split(",")))


@functools.lru_cache(maxsize=4096)
def pattern_of(pattern: str) -> re.Pattern[str]:
    """A pattern of OpenSSH's, in which `*` and `?` alone are special."""
    first, *others = (re.escape(each).replace(r"\?", ".") for each in re.split(r"\*+", pattern))
    if not others:
        return re.compile(first, re.DOTALL)
    # Whatever stands between two stars is found where it first fits, and never looked for again.
    between = "".join(f"(?>.*?{each})" for each in others[:-1])
    return re.compile(f"{first}{between}.*{others[-1]}", re.DOTALL)


def fits(text: str, pattern: str) -> bool:
    """Whether a pattern is that of the whole text."""
    if "*" not in pattern and "?" not in pattern:
        return text == pattern
    return pattern_of(pattern).fullmatch(text) is not None


def plain_address(host: str, family: str) -> str:
    """An address as the system writes it, a name in small letters."""
    families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    is_address = "%" in host or ":" in host or not host.strip("0123456789.")
    try:
        found = socket.getaddrinfo(
            host, "22", families.get(family, socket.AF_UNSPEC), socket.SOCK_STREAM, 0, numeric
        )
    except (OSError, UnicodeError):
        return host if is_address else host.lower()
    plain = str(socket.getnameinfo(found[0][4], socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0])
    return host if plain == host.lower() else plain


def is_safe(path: Path) -> bool:
    status = path.stat()
    return status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022


def run_in_shell(command: str, environment: Mapping[str, str]) -> bool:
    """Whether a command of `Match exec` succeeds, run as OpenSSH runs it."""
    shell = environment.get("SHELL") or "/bin/sh"
    null = subprocess.DEVNULL
    try:
        done = subprocess.run(
            [shell, "-c", command], stdin=null, stdout=null, timeout=_EXEC_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Doubt(f"Match exec `{command[:80]}`", f"cannot be run: {error}") from None
    return done.returncode == 0


@functools.cache
def host_name_here() -> str:
    return socket.gethostname()


@functools.cache
def user_name_here() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return getpass.getuser()
