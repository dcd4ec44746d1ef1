"""The service that starts monitors again when this machine, the control node, has been restarted.

Runs go on without their monitors, but nobody ends all of one when a part fails, and none goes on by itself.
A systemd unit of the user does it where the user has a systemd, else a line of the user's crontab. Both run
`orchestrate service start-monitors` once, after a boot, with the paths that are in force now.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.control.monitor_process import watched_again
from orchestrator.control.run_record import read_record
from orchestrator.control.runs import survey_runs
from orchestrator.control.service_cron import Crontab
from orchestrator.control.service_programs import Programs
from orchestrator.control.service_systemd import UserUnit
from orchestrator.core.errors import OrchestrateError, PreflightError
from orchestrator.core.paths import state_root

__all__ = ["ServiceStatus", "install", "is_installed", "pinned", "remove", "service_status", "start_monitors"]

_START = ("service", "start-monitors")
_IMPORT_SECONDS = 60.0


class Way(Protocol):
    """One of the two: systemd or cron."""

    name: str

    def usable(self) -> str:
        """Why it cannot be used here; empty where it can."""

    def installed(self) -> str:
        """Where it is installed, as a person would look for it; empty where it is not."""

    def install(self, argv: tuple[str, ...], env: Mapping[str, str]) -> list[str]:
        """Install it anew; what a person should know of it. Raises PreflightError, OSError."""

    def remove(self) -> list[str]:
        """Take away what was installed, and nothing else; what is left on purpose."""

    def problems(self, argv: tuple[str, ...], env: Mapping[str, str]) -> Iterator[str]:
        """What keeps an installed one from working after the next boot."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """What is installed (`way`, `where`), with what keeps it from working."""

    way: str = ""
    where: str = ""
    problems: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        return bool(self.way) and not self.problems


def ways(programs: Programs | None = None) -> tuple[Way, ...]:
    """The better one first."""
    programs = programs or Programs()
    return UserUnit(programs), Crontab(programs)


def pinned(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What of the environment the monitors need which a boot does not give them."""
    env = {"XDG_STATE_HOME": str(state_root().parent.absolute())}
    for name in ("PATH", "PYTHONPATH"):
        folders = [folder for folder in environ.get(name, "").split(os.pathsep) if os.path.isabs(folder)]
        if folders:
            env[name] = os.pathsep.join(dict.fromkeys(folders))
    return env


def _argv() -> tuple[str, ...]:
    # -P as for monitors: a folder that is called `orchestrator` must not be taken for ours.
    return (sys.executable, "-P", "-m", "orchestrator", *_START)


def install(programs: Programs | None = None) -> tuple[ServiceStatus, list[str]]:
    """Install the service in the best way that there is here; its status, and notes.

    Raises PreflightError where there is none, or where something that is not ours is in its place.
    """
    argv, env, why = _argv(), pinned(), []
    if problem := _cannot_start(argv, env):
        raise PreflightError(problem, remedy="install the package, rather than run it from a folder")
    chosen: Way | None = None
    for way in ways(programs):
        reason = way.usable()
        if reason:
            why.append(f"{way.name}: {reason}")
        elif chosen is None:
            chosen = way
    if chosen is None:
        raise PreflightError(
            f"nothing here starts a program after a boot ({'; '.join(why)})",
            remedy="install cron, or run `orchestrate service start-monitors` yourself after a boot",
        )
    notes = chosen.install(argv, env)
    for way in ways(programs):  # the other way must not start them twice
        if way.name != chosen.name and way.installed():
            notes += [*way.remove(), f"the one of {way.name} was removed: {chosen.name} does it now"]
    return service_status(programs), notes


def remove(programs: Programs | None = None) -> list[str]:
    """Remove the service in whichever way it is installed; a line on each thing."""
    lines = []
    for way in ways(programs):
        if where := way.installed():
            lines += [f"removed from {where}", *way.remove()]
    return lines


def service_status(programs: Programs | None = None) -> ServiceStatus:
    """What is installed, and whether it would start monitors after the next boot."""
    argv, env = _argv(), pinned()
    for way in ways(programs):
        if where := way.installed():
            found = [*way.problems(argv, env)]
            if problem := _cannot_start(argv, env):
                found.append(problem)
            return ServiceStatus(way.name, where, tuple(found))
    return ServiceStatus()


def is_installed(programs: Programs | None = None) -> bool:
    """Whether something of ours is installed at all."""
    return any(way.installed() for way in ways(programs))


def _cannot_start(argv: tuple[str, ...], env: Mapping[str, str]) -> str:
    """Why the command would not even be found after a boot; empty where it would."""
    probe = [*argv[: argv.index("orchestrator") + 1], "--version"]
    home = {name: os.environ[name] for name in ("HOME",) if name in os.environ}
    try:
        done = subprocess.run(
            probe, cwd="/", env={**home, **env}, capture_output=True, timeout=_IMPORT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{argv[0]} cannot be run: {error}"
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        return f"{argv[0]} does not find orchestrate after a boot: {''.join(last)}"
    return ""


def start_monitors(
    root: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> tuple[list[str], list[OrchestrateError]]:
    """Give each run that needs a monitor, and had one from here, another one; the runs, and what failed.

    What is beside the runs and is none is told to `say`.
    """
    runs, others = survey_runs(root)
    for line in others:
        say(line)
    started: list[str] = []
    errors: list[OrchestrateError] = []
    for control in runs:
        # A run that was only found on its hosts is watched by whoever launched it.
        if not control.monitor_lock.exists():
            continue
        try:
            record = watched_again(control, read_record(control), at_once=True)
        except OrchestrateError as error:
            errors.append(error)
            continue
        if record.elsewhere:
            say(f"{control.run_id}: its monitor lives on {record.elsewhere}")
        elif record.unwatched is not None:
            started.append(control.run_id)
    return started, errors
