"""The verb that gathers what a host can tell of why a run failed, or hangs.

Each thing is looked at in a process of its own, for a bounded time: on a host whose disk or device hangs,
what is there is told all the same, and what was not answered is said.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from orchestrator.agent import cgroup_memory, host_runs, processes
from orchestrator.agent.ascend_tools import ask_tools
from orchestrator.agent.bounded_work import do_all
from orchestrator.agent.kernel_log import Sources, kernel_lines
from orchestrator.agent.log_excerpts import plog_lines, plog_lines_of, worker_lines
from orchestrator.agent.request_loop import Answer, Request
from orchestrator.agent.worker_environment import PLOG_PATH
from orchestrator.core.codec import DecodeError, load
from orchestrator.core.ends import SCHEDULER, label_of
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir, Workdir
from orchestrator.core.records import HostStatus, Manifest

__all__ = ["evidence"]

_SECONDS = 20.0
_LONGEST = 120.0
_OF_A_TOOL = 8.0
_MOST_DEVICES = 64
_MOST_ROWS = 60
_WIDTH = 300
# `npu-smi info -m`: NPU ID, Chip ID, Chip Logic ID (a number; `-` for what is no device), Chip Name.
_CHIP = re.compile(r"^\s*(\d{1,4})\s+(\d{1,2})\s+(\d{1,4})\s", re.MULTILINE)
_RESULTS = ("kernel", "memory", "disks", "chips")


def evidence(request: Request) -> Iterator[Answer]:
    """What is found on this host of a run, or of one of its attempts."""
    args = request.args
    found = host_runs.find(Workdir(request.root), args["run_id"])
    number = args.get("attempt")
    run = found if number in (None, found.number) else found.pinned(int(number))
    yield Answer(_Look(run, args, Sources()).findings())


class _Look:
    """One look at everything; `findings` is JSON as of `core.found_evidence.FoundEvidence`."""

    def __init__(self, run: RunDir, args: Mapping[str, Any], sources: Sources) -> None:
        self._run = run
        self._seconds = min(_LONGEST, float(args.get("seconds", _SECONDS)))
        self._devices = [int(device) for device in args.get("devices", ())][:_MOST_DEVICES]
        self._only = [str(name) for name in args.get("only") or ()]  # of the results; none: all
        self._sources = sources
        self._unread: List[str] = []
        self._manifest = self._read_manifest()
        self._status = self._read_status()
        self._launched = self._launch_time()

    def findings(self) -> Dict[str, Any]:
        """Raises AgentError where there is no such run."""
        pieces = {**self._of_host(), **self._of_logs()}
        if self._only:
            pieces = {name: piece for name, piece in pieces.items() if name in self._only}
        done = do_all(pieces, self._seconds)
        for name, problem in done.problems.items():
            self._note(name.replace("_", " ", 1) if name.startswith("rank") else name, problem)
        logs: Dict[str, List[Any]] = {}
        for name, lines in done.results.items():
            if name not in _RESULTS:
                logs.setdefault(name.partition(":")[0], []).extend(lines)
        kernel, chips = (done.results.get(name, {}) for name in ("kernel", "chips"))
        for part in (kernel, chips):
            self._unread += part.get("unread", ())
        return {
            "launched": self._launched,
            **self._of_processes(),
            "logs": logs,
            "kernel": kernel.get("lines", []),
            **done.results.get("memory", {}),
            "disks": done.results.get("disks", []),
            "chips": chips.get("answers", []),
            "unread": [line[:_WIDTH] for line in self._unread],
        }

    # What is known of the run.

    def _read_manifest(self) -> Optional[Manifest]:
        try:
            return load(Manifest, self._run.attempt.manifest, self._run.runs)
        except (OSError, DecodeError) as error:
            self._note("the run's manifest", getattr(error, "strerror", None) or error)
            return None

    def _read_status(self) -> Optional[HostStatus]:
        try:
            return host_runs.status(self._run)
        except AgentError as error:
            self._note("the run's status", error.what)
            return None

    def _launch_time(self) -> Optional[float]:
        """When the attempt was begun, by this host's clock."""
        try:
            return os.lstat(self._run.attempt.manifest).st_mtime
        except OSError:
            return None

    def _of_processes(self) -> Dict[str, Any]:
        supervisor = self._status.supervisor if self._status is not None else None
        guardian = self._status.guardian if self._status is not None else None
        return {
            "boot_id": processes.boot_id(),
            "launched_boot_id": supervisor.boot_id if supervisor is not None else "",
            "supervisor_lives": processes.is_alive(supervisor),
            "guardian_lives": processes.is_alive(guardian),
        }

    def _labels(self) -> Tuple[str, ...]:
        if self._manifest is not None:
            labels = [worker.label for worker in self._manifest.workers]
            return (*labels, *([label_of(SCHEDULER)] if self._manifest.scheduler is not None else []))
        return tuple(rank.label for rank in self._status.everyone()) if self._status is not None else ()

    # What is looked at, each in a process of its own.

    def _of_logs(self) -> Dict[str, Callable[[], Any]]:
        pieces: Dict[str, Callable[[], Any]] = {}
        for label in self._labels():
            source = "scheduler" if label == label_of(SCHEDULER) else "worker"
            pieces[f"{label}: log"] = self._log_of(label, source)
            pieces[f"{label}: CANN's logs"] = self._plogs_of(label)
        return pieces

    def _log_of(self, label: str, source: str) -> Callable[[], Any]:
        return lambda: worker_lines(self._run.attempt.log(label), self._run.runs, source)

    def _plogs_of(self, label: str) -> Callable[[], Any]:
        return lambda: (
            plog_lines(self._run, label) or plog_lines_of(self._plog_folder(label), self._pid(label))
        )

    def _plog_folder(self, label: str) -> Path:
        """Where CANN writes the logs of a process that is not told to write them into the run."""
        own = (
            [worker.env for worker in self._manifest.workers if worker.label == label]
            if self._manifest
            else []
        )
        named = next((env[PLOG_PATH] for env in own if PLOG_PATH in env), os.environ.get(PLOG_PATH))
        return Path(named or os.path.expanduser("~/ascend/log"))

    def _pid(self, label: str) -> int:
        everyone = self._status.everyone() if self._status is not None else ()
        known = {rank.label: rank.process.pid for rank in everyone if rank.process is not None}
        return known.get(label, 0)

    def _of_host(self) -> Dict[str, Callable[[], Any]]:
        pieces: Dict[str, Callable[[], Any]] = {"memory": self._memory, "disks": self._disks}
        if self._launched is not None:
            pieces["kernel"] = self._kernel
        if self._devices:
            pieces["chips"] = self._chips
        return pieces

    def _kernel(self) -> Dict[str, Any]:
        found = kernel_lines(self._launched or 0.0, self._sources)
        lines = [{"text": line.text, "time": line.time} for line in found.lines]
        return {"lines": lines, "unread": list(found.unread)}

    def _memory(self) -> Dict[str, Any]:
        note = cgroup_memory.read_note(self._run.attempt, self._run.runs)
        everyone = self._status.everyone() if self._status is not None else ()
        known = [rank.process for rank in everyone if rank.process is not None]
        alive = [process.pid for process in known if processes.is_alive(process)]
        kills = cgroup_memory.kills_since(note, alive, launched=self._launched or 0.0)
        in_groups, in_containers = kills.in_groups, self._kills_in_containers()
        return {
            "kills_in_groups": (in_groups or 0) + in_containers if in_containers else in_groups,
            "kills_on_host": kills.on_host,
            "memory_limit": kills.limit,
        }

    def _kills_in_containers(self) -> int:
        """Their groups go with them, so that each tells at its end."""
        if self._manifest is None or self._manifest.container is None:
            return 0
        from orchestrator.agent.container_remains import oom_kills  # late: few runs have any

        return oom_kills(self._run.attempt, self._run.runs)

    def _disks(self) -> List[Dict[str, Any]]:
        places = {
            "workdir": self._run.root,
            "checkpoint": self._run.attempt.checkpoint,
            "logs": self._run.attempt.folder("logs"),
            "/tmp": Path("/tmp"),
            "/dev/shm": Path("/dev/shm"),
        }
        found, seen = [], set()
        for use, path in places.items():
            try:
                room, where = os.statvfs(path), os.stat(path).st_dev
            except OSError:
                continue
            if where not in seen or use.startswith("/"):
                seen.add(where)
                found.append(_file_system(use, path, room))
        return found

    def _chips(self) -> Dict[str, Any]:
        """The health of each device. Without `-c` some boards tell that of a controller beside the chips."""
        (mapping,) = ask_tools([["npu-smi", "info", "-m"]], timeout=_OF_A_TOOL)
        if mapping["failure"]:
            why = {"missing": "npu-smi is not there", "denied": "npu-smi may not be run"}
            return {"unread": [f"device health: {why.get(mapping['failure'], mapping['failure'])}"]}
        chips = {int(match[3]): (match[1], match[2]) for match in _CHIP.finditer(mapping["text"])}
        places = [chips.get(device, (str(device), "0")) for device in self._devices]
        calls = [["npu-smi", "info", "-t", "health", "-i", npu, "-c", chip] for npu, chip in places]
        answers = ask_tools(calls, timeout=_OF_A_TOOL)
        told = [
            {
                "device": device,
                "lines": answer["text"].splitlines()[:_MOST_ROWS],
                "failure": answer["failure"],
            }
            for device, answer in zip(self._devices, answers)
        ]
        return {"answers": told}

    def _note(self, what: str, problem: object) -> None:
        self._unread.append(f"{what}: {problem}")


def _file_system(use: str, path: Path, room: os.statvfs_result) -> Dict[str, Any]:
    return {
        "use": use,
        "path": str(path),
        "free": room.f_bavail * room.f_frsize,
        "total": room.f_blocks * room.f_frsize,
        "free_inodes": room.f_favail if room.f_files else None,
    }
