"""The service as a unit of the user's systemd, which lingers: it runs from the boot on, without a login."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.control.service_programs import Programs
from orchestrator.core.errors import PreflightError
from orchestrator.core.paths import atomic_write

__all__ = ["UserUnit", "unit_text"]

_UNIT = "orchestrate-monitors.service"
_MARK = "# Written by `orchestrate service install`; `orchestrate service remove` removes it."
_LARGEST = 1 << 16


def unit_text(argv: tuple[str, ...], env: Mapping[str, str]) -> str:
    """The unit. Monitors live on in it when the program that started them has ended, and when it is stopped.

    Raises PreflightError for a path that no unit can hold.
    """
    lines = [
        _MARK,
        "[Unit]",
        "Description=orchestrate: the monitors of runs that have not ended",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        "KillMode=process",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in env.items()),
        f"ExecStart={' '.join(_quoted(word).replace('$', '$$') for word in argv)}",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A word as systemd.syntax(7) reads it; % would begin a specifier."""
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise PreflightError(f"{text!r} cannot stand in a systemd unit", remedy="use another path")
    inner = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{inner}"'


class UserUnit:
    """The unit of this account."""

    name = "systemd"

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        self._path = Path(base).absolute() / "systemd" / "user" / _UNIT

    def usable(self) -> str:
        if not self._programs.there("systemctl"):
            return "there is no systemctl"
        answer = self._programs.run("systemctl", "--user", "show-environment")
        return f"this account has no systemd ({answer.last_line})" if answer.code else ""

    def installed(self) -> str:
        return str(self._path) if self._is_ours() else ""

    def _text(self) -> bytes | None:
        """What is there; None where nothing is. Raises PreflightError where it is no plain file."""
        try:
            handle = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._not_ours() from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise self._not_ours()
        with os.fdopen(handle, "rb") as file:
            return file.read(_LARGEST)

    def _is_ours(self) -> bool:
        try:
            text = self._text()
        except PreflightError:
            return False
        return text is not None and text.startswith(_MARK.encode())

    def _not_ours(self) -> PreflightError:
        what = "is there, and was not written by orchestrate"
        return PreflightError(what, where=str(self._path), remedy="move it away")

    def install(self, argv: tuple[str, ...], env: Mapping[str, str]) -> list[str]:
        text = unit_text(argv, env).encode("utf-8", "surrogateescape")
        if self._text() is not None and not self._is_ours():
            raise self._not_ours()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self._path, text, 0o644)
        self._told("daemon-reload")
        self._told("enable", _UNIT)
        return self._linger()

    def _told(self, *words: str) -> None:
        answer = self._programs.run("systemctl", "--user", *words)
        if answer.code:
            what = f"systemctl --user {' '.join(words)}: {answer.last_line or f'exit code {answer.code}'}"
            raise PreflightError(what, where=str(self._path), remedy="see `systemctl --user status`")

    def _linger(self) -> list[str]:
        if self._lingers():
            return []
        answer = self._programs.run("loginctl", "enable-linger")
        if answer.code == 0:
            return [
                f"{_account()} lingers now: its services run from the boot on (`loginctl disable-linger`)"
            ]
        return []  # the status says what is missing

    def _lingers(self) -> bool:
        answer = self._programs.run("loginctl", "show-user", _account(), "--property=Linger")
        return answer.code == 0 and answer.output.strip() == b"Linger=yes"

    def remove(self) -> list[str]:
        if not self._is_ours():
            return []
        answer = self._programs.run("systemctl", "--user", "disable", _UNIT)
        self._path.unlink(missing_ok=True)
        self._programs.run("systemctl", "--user", "daemon-reload")
        lines = [f"systemctl --user disable: {answer.last_line}"] if answer.code else []
        if self._lingers():
            lines.append(f"{_account()} still lingers; `loginctl disable-linger` ends that")
        return lines

    def problems(self, argv: tuple[str, ...], env: Mapping[str, str]) -> Iterator[str]:
        text = self._text() or b""
        if _pins(text) != _pins(unit_text(argv, env).encode("utf-8", "surrogateescape")):
            yield "it was installed for another state directory or Python: `orchestrate service install` anew"
        if reason := self.usable():
            yield reason
            return
        answer = self._programs.run("systemctl", "--user", "is-enabled", _UNIT)
        if answer.output.strip() != b"enabled":
            said = answer.output.decode("utf-8", "replace").strip() or answer.last_line
            yield f"it is not enabled ({said}): `systemctl --user enable {_UNIT}`"
        if not self._lingers():
            what = f"{_account()} does not linger, so that nothing of it runs before a login"
            yield f"{what}: `loginctl enable-linger`"


def _pins(text: bytes) -> list[bytes]:
    """What must be as it is now: where the state is, and what is run. A PATH may change."""
    return [
        line for line in text.splitlines() if line.startswith((b'Environment="XDG_STATE_HOME', b"ExecStart"))
    ]


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
