"""A worker in a container, as its supervisor starts it: what the container gets to know, and its keeper."""

from __future__ import annotations

import os
from typing import Any, Mapping, Optional, Sequence

from orchestrator.agent.container_command import labels_of, run_command
from orchestrator.agent.container_keeper import Keeper, Place
from orchestrator.agent.container_remains import attempt_word, known_processes, told_end
from orchestrator.agent.worker_environment import process_environment
from orchestrator.core.container_records import ContainerSpec
from orchestrator.core.ends import SCHEDULER
from orchestrator.core.paths import RunDir, atomic_write
from orchestrator.core.records import Manifest, ProcessId, WorkerSpec

__all__ = ["ContainerWorker"]

_INIT = "container_init.py"
_LONGEST = 1 << 12
# What the account's environment says that is as true in a container; where programs are it is not.
_CARRIED = ("LANG", "LANGUAGE", "TZ", "USER", "LOGNAME")


class ContainerWorker:
    """The keeper of one worker's container, with what `subprocess.Popen` has of it: pid, wait, returncode."""

    def __init__(self, spec: WorkerSpec, manifest: Manifest, run: RunDir, container: ContainerSpec) -> None:
        self._spec, self._manifest, self._run, self._container = spec, manifest, run, container
        self._root = run.attempt.root  # a run's links may lead elsewhere when this one has ended
        self._place = Place(self._root, spec.label)
        self.pid = 0
        self.returncode: Optional[int] = None

    def start(self, argv: Sequence[str], env: Mapping[str, str], environ: Mapping[str, str]) -> None:
        """Have `argv` started in a container, with `env` over the image's. Raises OSError."""
        init = self._root / _INIT
        if not init.exists():
            atomic_write(init, _source_of_init())
        labels = labels_of(
            self._manifest.run_id,
            attempt_word(self._manifest.attempt),
            self._spec.rank,
            self._manifest.host,
        )
        command, missing = run_command(
            self._container,
            run_dir=str(self._run.root),
            device_id=-1 if self._spec.rank == SCHEDULER else self._spec.device_id,
            labels=labels,
            cid_file=str(self._place.cid),
            inner=["-I", "-S", str(init), str(self._place.socket)],
        )
        notes = [f"not in the container, for this host has none: {', '.join(missing)}"] if missing else []
        told = {
            "argv": list(argv),
            "env": self._environment(env, environ),
            "sourced": self._manifest.env_script is not None,
            "cwd": str(self._run.root),
            "log": str(self._run.attempt.log(self._spec.label)),
            "umask": _umask(),
        }
        keeper = Keeper(command, self._place, told, labels=labels, notes=notes)
        self.pid = keeper.spawn()

    def wait(self) -> int:
        """Bury the keeper, which has ended as the worker has."""
        _, status = os.waitpid(self.pid, 0)
        self.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        return self.returncode

    def process(self) -> Optional[ProcessId]:
        """The worker itself, a process of the host too; None until it is there."""
        return known_processes(self._place, self._run.runs).get("worker")

    def why_not_started(self) -> str:
        """Why its program could not be run; "" where it could."""
        return str(told_end(self._place.end, self._run.runs).get("not_started", ""))[:_LONGEST]

    def _environment(self, env: Mapping[str, str], environ: Mapping[str, str]) -> Mapping[str, str]:
        kept = {name: value for name, value in environ.items() if name in _CARRIED or name.startswith("LC_")}
        # A PYTHONPATH goes before the image's: the shell of a script or the first process joins them.
        mine = process_environment({}, env, "")
        if self._container.ascend and not self._container.is_privileged and "DEVICE_ID" in mine:
            mine["DEVICE_ID"] = "0"
        if os.getuid():
            kept["HOME"] = str(self._run.root)  # an account that the image does not know has none there
        return {**kept, **mine}


def _source_of_init() -> bytes:
    loader: Any = globals()["__loader__"]
    data: bytes = loader.get_data(os.path.join(os.path.dirname(__file__), _INIT))
    return data


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
