"""One worker: a process in a session of its own, with its own log, from start to exit."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from orchestrator.agent import processes
from orchestrator.agent.environment import PLOG_PATH, process_environment, with_env_script
from orchestrator.core.paths import RunDir
from orchestrator.core.records import Manifest, RankStatus, WorkerSpec
from orchestrator.core.safe_open import read_end
from orchestrator.core.states import RankState

__all__ = ["Worker", "last_json_line", "tail_lines"]

# How a process ends that breaks in native code.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL})
_TAIL_LINES = 20
_TAIL_BYTES = 16384


def tail_lines(path: Path, count: int = _TAIL_LINES) -> Tuple[str, ...]:
    """The last lines of a text file; bytes that are no UTF-8 are shown as replacement characters."""
    return tuple(_tail(path).decode("utf-8", "replace").splitlines()[-count:])


def last_json_line(path: Path) -> Dict[str, Any]:
    """The last complete JSON object of a file with one per line; {} where there is none yet."""
    for line in reversed(_tail(path).splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def _tail(path: Path) -> bytes:
    try:
        return read_end(path, path.parent, _TAIL_BYTES)
    except OSError:
        return b""


def _fill(text: str, spec: WorkerSpec, manifest: Manifest, run: RunDir) -> str:
    values = {"run_dir": run.root, "python": sys.executable, "rank": spec.rank, "port": manifest.port}
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return text


class Worker:
    """A process of one rank, or the run's scheduler; `status` is always a complete record of it."""

    def __init__(self, spec: WorkerSpec, manifest: Manifest, run: RunDir) -> None:
        self._spec = spec
        self._run = run
        self._manifest = manifest
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._signalled = ""
        self.status = RankStatus(spec.label, spec.rank, spec.local_rank, spec.device_id)

    @property
    def is_running(self) -> bool:
        return self._process is not None and not self.status.state.is_terminal

    def start(self) -> None:
        """Start the process; where that is impossible the worker is failed, with the reason."""
        self._update(state=RankState.STARTING)
        parent = os.getpid()
        try:
            environment = self._environment(os.environ)
            self._make_plog_folder(environment)
            with open(self._run.attempt.log(self._spec.label), "ab") as log:
                self._process = subprocess.Popen(
                    self._argv(),
                    cwd=str(self._run.root),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    # Should the supervisor be killed outright, the kernel takes the worker along.
                    preexec_fn=lambda: processes.die_with_parent(signal.SIGKILL, parent),
                )
        except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
            command = " ".join(self._argv()[:1])
            reason = f"cannot start {command}: {getattr(error, 'strerror', None) or error}"
            self._update(state=RankState.FAILED, reason=reason, exit_code=127, ended=time.time())
            return
        process = processes.identify(self._process.pid)
        self._update(state=RankState.RUNNING, process=process, started=time.time())

    def poll(self) -> bool:
        """Take note of an exit; True when the process has ended since the last call."""
        if self._process is None or not self.is_running or not self._has_ended():
            return False
        # What it leaves in its group has no owner any more. Before the process is reaped: until then its
        # number, which is the group's too, cannot be anybody else's.
        processes.signal_group(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        reason = self._signalled
        if not reason and -code in _CRASHES and self._run.attempt.done(self._spec.label).exists():
            reason, code = f"crashed at its exit (signal {-code}), after its work was done", 0
        self._update(
            state=self._end_state(code),
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            ended=time.time(),
            reason=reason,
            tail=tail_lines(self._run.attempt.log(self._spec.label)) if code else (),
        )
        return True

    def send(self, number: int, reason: str) -> None:
        """Signal the whole process group; an exit after this counts as stopped, for this reason."""
        if self._process is not None and self.is_running and not self._has_ended():
            self._signalled = self._signalled or reason
            processes.signal_group(self._process.pid, number)

    def cancel(self, reason: str) -> None:
        """Mark a worker that was never started, or that the end of its run makes superfluous, as stopped."""
        if not self.status.state.is_terminal:
            self._update(state=RankState.STOPPED, reason=reason, ended=time.time())

    def refresh_progress(self) -> None:
        """Read the newest line of the worker's metrics into its status."""
        if self.is_running or self.status.state is RankState.SUCCEEDED:
            progress = last_json_line(self._run.attempt.metrics(self._spec.rank))
            if not progress:
                return
            # The first report is kept beside the newest: pace and time left are told from the two, and the
            # first step, which compiles, does not count.
            first = self.status.progress.get("first") or {
                name: progress[name] for name in ("step", "time") if name in progress
            }
            progress["first"] = first
            if progress != self.status.progress:
                self._update(progress=progress)

    def _has_ended(self) -> bool:
        """Whether the process is a zombie; it stays one."""
        assert self._process is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _end_state(self, code: int) -> RankState:
        if self._signalled:
            return RankState.STOPPED
        return RankState.FAILED if code else RankState.SUCCEEDED

    def _update(self, **changes: Any) -> None:
        self.status = dataclasses.replace(self.status, **changes)

    def _argv(self) -> List[str]:
        argv = [_fill(word, self._spec, self._manifest, self._run) for word in self._spec.argv]
        script = self._manifest.env_script
        return argv if script is None else with_env_script(script, argv)

    def _environment(self, environ: Mapping[str, str]) -> Dict[str, str]:
        defaults, own = self._filled(self._spec.default_env), self._filled(self._spec.env)
        set_here = {"PYTHONUNBUFFERED": "1", **own}
        return {**defaults, **process_environment(environ, set_here, self._manifest.env_script)}

    def _filled(self, env: Mapping[str, str]) -> Dict[str, str]:
        return {name: _fill(value, self._spec, self._manifest, self._run) for name, value in env.items()}

    def _make_plog_folder(self, environment: Mapping[str, str]) -> None:
        """The folder for CANN's logs that is ours; one that the host or the job names is theirs."""
        ours = self._filled(self._spec.default_env).get(PLOG_PATH)
        if ours is not None and environment.get(PLOG_PATH) == ours:
            os.makedirs(ours, mode=0o700, exist_ok=True)
