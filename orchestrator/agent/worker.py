"""One worker: a process in a session of its own, with its own log, from start to exit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple, Union

from orchestrator.agent import processes
from orchestrator.agent.metrics_lines import MetricsReader
from orchestrator.agent.worker_end import Exit
from orchestrator.agent.worker_environment import PLOG_PATH, process_environment, with_env_script
from orchestrator.core.ends import SCHEDULER
from orchestrator.core.paths import RunDir, atomic_write
from orchestrator.core.records import Manifest, ProcessId, WorkerSpec
from orchestrator.core.safe_open import read_end

if TYPE_CHECKING:
    from orchestrator.agent.container_worker import ContainerWorker
    from orchestrator.agent.log_metrics import LogMetrics

__all__ = ["CannotStart", "Worker", "tail_lines"]

_TAIL_LINES = 20
_TAIL_BYTES = 16384
_FIRST_PORT, _PORTS = 20000, 10000  # below those that systems give out (net.ipv4.ip_local_port_range)
_EVIDENCE_BYTES = 65536


def tail_lines(path: Path, count: int = _TAIL_LINES) -> Tuple[str, ...]:
    """The last lines of a text file; bytes that are no UTF-8 are shown as replacement characters."""
    return tuple(_tail(path).decode("utf-8", "replace").splitlines()[-count:])


def _tail(path: Path, count: int = _TAIL_BYTES) -> bytes:
    try:
        return read_end(path, path.parent, count)
    except OSError:
        return b""


def _evidence(log: Path) -> Tuple[str, ...]:
    from orchestrator.core.log_signatures import telling_lines  # late: most workers end well

    return telling_lines(_tail(log, _EVIDENCE_BYTES).decode("utf-8", "replace"))


def _fill(text: str, spec: WorkerSpec, run: RunDir, python: str, **more: object) -> str:
    values = {"run_dir": run.root, "python": python, "rank": spec.rank, **more}
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return text


class CannotStart(Exception):
    """A worker's program cannot be run; the text is what the system says."""


class Worker:
    """The process of one rank, or the run's scheduler."""

    def __init__(self, spec: WorkerSpec, manifest: Manifest, run: RunDir) -> None:
        self._spec = spec
        self._run = run
        self._manifest = manifest
        self._process: Optional[Union[subprocess.Popen[bytes], ContainerWorker]] = None
        self._container: Optional[ContainerWorker] = None
        self._metrics = MetricsReader()
        self._log_metrics: Optional[LogMetrics] = None
        # Where the wrapper of a Python program says that it is there.
        self._announces: Optional[Path] = None
        self._wrapped: Optional[List[str]] = None

    def start(self) -> Optional[ProcessId]:
        """Start the process and return who it is. Raises CannotStart."""
        parent = os.getpid()
        try:
            environment = self._environment(os.environ)
            self._wrap(environment)
            self._make_plog_folder(environment)
            self._watch_log()
            if self._manifest.container is not None:
                return self._start_in_container(environment)
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
            raise CannotStart(f"{command}: {getattr(error, 'strerror', None) or error}") from error
        return processes.identify(self._process.pid)

    def _start_in_container(self, environment: Mapping[str, str]) -> Optional[ProcessId]:
        from orchestrator.agent.container_worker import ContainerWorker  # late: few workers have one

        assert self._manifest.container is not None
        worker = ContainerWorker(self._spec, self._manifest, self._run, self._manifest.container)
        worker.start(self._argv(), environment, os.environ)
        self._process = self._container = worker
        return processes.identify(worker.pid)

    def process(self) -> Optional[ProcessId]:
        """Who the worker is, once that is known: in a container it is there later than its keeper."""
        return None if self._container is None else self._container.process()

    def poll(self) -> Optional[Exit]:
        """How the process has ended, when it has; what it leaves in its group is killed."""
        if self._process is None or not self._has_ended():
            return None
        # What it leaves in its group has no owner any more. Before the process is reaped: until then its
        # number, which is the group's too, cannot be anybody else's.
        processes.signal_group(self._process.pid, signal.SIGKILL)
        code, ended = self._process.wait(), time.time()
        log = self._run.attempt.log(self._spec.label)
        return Exit(
            self._spec.rank,
            code,
            ended,
            was_done=self._run.attempt.done(self._spec.label).exists(),
            tail=tail_lines(log) if code else (),
            evidence=_evidence(log) if code else (),
            not_started=self._container.why_not_started() if code and self._container else "",
        )

    def send(self, number: int) -> bool:
        """Signal the whole process group; False where the process has ended already."""
        if self._process is None or self._process.returncode is not None or self._has_ended():
            return False
        if self._container is not None:
            from orchestrator.agent.container_keeper import KILL  # late: few workers have one

            os.kill(self._process.pid, KILL if number == signal.SIGKILL else number)
            return True
        processes.signal_group(self._process.pid, number)
        return True

    def news(self) -> List[Dict[str, Any]]:
        """What its metrics have gained since the last time, a line each, in their order."""
        unwritten: List[Dict[str, Any]] = []
        if self._log_metrics is not None and self._process is not None:
            has_ended = self._process.returncode is not None
            unwritten = self._log_metrics.look(to_end=has_ended)
            if has_ended:
                self._log_metrics.close()
                self._log_metrics = None
        return [*self._metrics.news(self._run.attempt.metrics(self._spec.rank)), *unwritten]

    def shows_stacks(self) -> Optional[bool]:
        """Whether a program that our wrapper has started still shows its stacks; None for any other."""
        return None if self._announces is None else self._announces.exists()

    def _watch_log(self) -> None:
        """MindFormers writes no metrics of ours; they are made of what it logs."""
        if self._manifest.launch.get("task") != "mindformers" or self._spec.rank == SCHEDULER:
            return
        from orchestrator.agent.log_metrics import LogMetrics  # late: most workers write theirs

        self._log_metrics = LogMetrics(self._run.attempt, self._run.root, self._spec, self._manifest)

    def _has_ended(self) -> bool:
        """Whether the process is a zombie; it stays one."""
        assert self._process is not None
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _argv(self) -> List[str]:
        argv = self._wrapped or self._own_argv()
        script = self._manifest.env_script
        return argv if script is None else with_env_script(script, argv)

    def _own_argv(self) -> List[str]:
        return [_fill(word, self._spec, self._run, self._python) for word in self._spec.argv]

    @property
    def _python(self) -> str:
        return sys.executable if self._manifest.container is None else self._manifest.container.python

    def _wrap(self, environment: Mapping[str, str]) -> None:
        """Have a user's Python program show its stacks, where that can be; ours do by themselves."""
        is_rank = self._spec.rank != SCHEDULER
        if self._manifest.launch.get("task") not in ("command", "mindformers") or not is_rank:
            return
        # Late: most workers are none of these.
        from orchestrator.agent.python_program import WRAPPER, is_switched_off, source_of_wrapper, with_stacks

        if is_switched_off(environment):
            return
        attempt = self._run.attempt
        wrapper, announced = attempt.root / WRAPPER, attempt.done(f"{self._spec.label}.can")
        argv = with_stacks(self._own_argv(), wrapper, announced)
        if argv is None:
            return
        # A program is started all the same: that a disk is full it will tell better than we do.
        with contextlib.suppress(OSError):
            if not wrapper.exists():
                atomic_write(wrapper, source_of_wrapper())
            self._wrapped, self._announces = argv, announced

    def _environment(self, environ: Mapping[str, str]) -> Dict[str, str]:
        """The whole of it; in a container what is ours of it, and the image has the rest."""
        defaults, own = self._filled(self._spec.default_env), self._filled(self._spec.env)
        set_here = {"PYTHONUNBUFFERED": "1", **own}
        if self._manifest.container is not None:
            return {**defaults, **set_here}
        return {**defaults, **process_environment(environ, set_here, self._manifest.env_script)}

    def _filled(self, env: Mapping[str, str]) -> Dict[str, str]:
        # Without a scheduler no port is asked for; all hosts find the same one, and other runs another.
        run_id, port = self._manifest.run_id, self._manifest.port
        port = port or _FIRST_PORT + zlib.crc32(run_id.encode()) % _PORTS
        literal = self._spec.literal
        return {
            name: value if name in literal else _fill(value, self._spec, self._run, self._python, port=port)
            for name, value in env.items()
        }

    def _make_plog_folder(self, environment: Mapping[str, str]) -> None:
        """The folder for CANN's logs that is ours; one that the host or the job names is theirs."""
        ours = self._filled(self._spec.default_env).get(PLOG_PATH)
        if ours is not None and environment.get(PLOG_PATH) == ours:
            os.makedirs(ours, mode=0o700, exist_ok=True)
