"""The support bundle of a run: what those need who are to help, in the layout that Ascend's FaultDiag reads.

    <run>/bundle.json                    what this is, what was left out and masked
    <run>/{plan,record,diagnosis}.json, monitor.log
    <run>/<host>/process_log/{debug,run}/plog/plog-<pid>_<time>.log
    <run>/<host>/device_log/{debug,run}/device-<id>/device-<pid>_<time>.log
    <run>/<host>/{rank-<n>.txt, scheduler.log, dmesg, environment_check/…}

Every byte goes through the mask over the values of the job's `env:`, and before the bundle is put in its
place the whole of it is searched once more. Names are made here, of ranks and numbers. Layout: mind-cluster,
docs/en/faultdiag/user_guide/03_collecting_logs.md.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import tarfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.agent.worker_environment import OF_EACH_RANK, RESERVED
from orchestrator.control.bundle_writer import BundleWriter
from orchestrator.control.diagnose import Diagnosis
from orchestrator.control.logs import all_labels
from orchestrator.control.secret_mask import SecretMask
from orchestrator.core.codec import to_json
from orchestrator.core.errors import AgentError, OrchestrateError, RunNotFound, UsageError
from orchestrator.core.found_evidence import FoundEvidence
from orchestrator.core.host_answers import Label
from orchestrator.core.paths import ControlDir, replacing
from orchestrator.core.safe_open import open_safely
from orchestrator.core.visible_text import visible
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.fleet import Fleet
from orchestrator.plan.launch_plan import LaunchPlan, read_plan

__all__ = ["Bundle", "env_values", "write_bundle"]

_MADE_BY = "orchestrate support bundle"
_FORMAT = 1
_BLOCK = 1 << 20
_MOST_OF_A_LOG = 64 << 20
_MOST_OF_A_PLOG = 20 << 20
_MOST_OF_A_HOST = 512 << 20
_OURS = RESERVED | OF_EACH_RANK | {"MASTER_ADDR", "MASTER_PORT"}
_PLOG = re.compile(
    r"(?P<label>rank_\d{1,7}|scheduler)/(?P<kind>debug|run)/(?P<folder>plog|device-(?P<device>\d{1,4}))/"
    r"(?:plog|device)-(?P<pid>\d{1,10})_(?P<stamp>\d{1,20})\.log",
    re.ASCII,
)
_LEFT_OUT = "<left out>"
_CODE_FOLDER = "{run_dir}/code:"


@dataclass(slots=True)
class Bundle:
    """What was written: `left_out` has a line for each thing that is not there."""

    path: Path
    files: int = 0
    nbytes: int = 0
    masked: dict[str, int] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    left_out: list[str] = field(default_factory=list)


def env_values(*plans: LaunchPlan) -> tuple[tuple[str, str], ...]:
    """The names and values of the job's own variables; a variable may have several."""
    found: dict[str, dict[str, None]] = {}
    for manifest in (each for plan in plans for each in plan.manifests.values()):
        for worker in (*manifest.workers, *([manifest.scheduler] if manifest.scheduler else [])):
            for name, value in worker.env.items():
                if name in worker.literal or (not worker.literal and name not in _OURS):
                    found.setdefault(name, {})[value] = None
                elif name == "PYTHONPATH" and value.startswith(_CODE_FOLDER):
                    found.setdefault(name, {})[value[len(_CODE_FOLDER) :]] = None
    return tuple((name, value) for name, values in found.items() for value in values)


def write_bundle(
    path: Path, control: ControlDir, plan: LaunchPlan, diagnosis: Diagnosis, told: Any, fleet: Fleet
) -> Bundle:
    """Pack it; `told` is the diagnosis as JSON.

    Raises UsageError where something is at `path` that is no such bundle, or where a value of `env:` would be
    in it all the same; then nothing is there.
    """
    _require_ours(path)
    bundle = Bundle(path)
    mask = SecretMask(env_values(plan, *_plans_of(control)))
    try:
        with replacing(path) as file:
            with tarfile.open(fileobj=file, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
                writer = BundleWriter(archive, mask, control.run_id, path.parent)
                head = {"made_by": _MADE_BY, "format": _FORMAT, "run_id": control.run_id}
                writer.add_json("bundle.json", {**head, "made": time.time(), "hosts": list(fleet.hosts)})
                _add_ours(writer, control, plan, diagnosis, told)
                _add_hosts(writer, bundle, plan, diagnosis, fleet)
                counts = [f"{count} of {name}" for name, count in mask.masked.items()]
                left = {"left_out": bundle.left_out, "masked": counts, "masked_beside_name": mask.beside}
                writer.add_json("left_out.json", left)
            bundle.files, bundle.nbytes = writer.files, file.tell()
            _require_clean(file, mask)
    except OSError as error:
        raise UsageError(
            f"{error.strerror or error}", where=str(path), remedy="choose another file"
        ) from error
    bundle.masked, bundle.beside = mask.masked, mask.beside
    return bundle


def _plans_of(control: ControlDir) -> Iterator[LaunchPlan]:
    """Those of all attempts: one may have had other values, and the record tells of all."""
    for number in control.numbers():
        with contextlib.suppress(RunNotFound):
            yield read_plan(control.plan_of(number))


def _require_ours(path: Path) -> None:
    """Raise UsageError unless nothing is there, or a bundle of this tool."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(error.strerror or str(error), where=str(path)) from error
    try:
        with (
            os.fdopen(open_safely(path, path.parent), "rb") as file,
            tarfile.open(fileobj=file, mode="r|gz") as archive,
        ):
            first = archive.next()
            data = archive.extractfile(first) if first is not None and first.size < 1 << 20 else None
            said = json.loads(data.read()) if data is not None else {}
            if isinstance(said, dict) and said.get("made_by") == _MADE_BY:
                return
    except (OSError, EOFError, ValueError, tarfile.TarError, zlib.error):
        pass
    raise UsageError(
        "something is there that is no support bundle of this tool; it is left as it is",
        where=str(path),
        remedy="name another file, or remove it",
    )


def _require_clean(file: Any, mask: SecretMask) -> None:
    """Raise UsageError where a value is in the bundle that is about to be put in place."""
    file.flush()
    with os.fdopen(os.dup(file.fileno()), "rb") as again:
        again.seek(0)
        with gzip.open(again) as opened:
            left = mask.occurrences(iter(lambda: opened.read(_BLOCK), b""))
    if left:
        raise UsageError(
            f"the bundle is not written: {left} value(s) of the job's env would be in it all the same",
            remedy="please report this; `orchestrate logs` and `orchestrate status --json` have most of it",
        )


# What this machine has.


def _add_ours(
    writer: BundleWriter, control: ControlDir, plan: LaunchPlan, diagnosis: Diagnosis, told: Any
) -> None:
    writer.add_json("diagnosis.json", told)
    writer.add_json("record.json", to_json(diagnosis.record))
    writer.add_json("plan.json", _plan_data(plan))
    writer.add("monitor.log", _end_of(control.monitor_log, control.runs))
    if diagnosis.stacks is not None:
        writer.add("stacks.txt", _end_of(diagnosis.stacks, control.runs))


def _plan_data(plan: LaunchPlan) -> Any:
    """The plan without the job's own text: YAML may write a value over several lines."""
    data = to_json(plan)
    if data.get("job"):
        names = [each.partition("=")[0] for each in data["job"]["overrides"]]
        data["job"].update(text=_LEFT_OUT, overrides=names)
    return _without_values(data)


def _without_values(plan: Any) -> Any:
    """The plan without the values of variables: their names tell enough."""
    if isinstance(plan, Mapping):
        return {
            name: dict.fromkeys(value, _LEFT_OUT)
            if name in ("env", "default_env") and isinstance(value, Mapping)
            else _without_values(value)
            for name, value in plan.items()
        }
    return [_without_values(each) for each in plan] if isinstance(plan, list) else plan


def _end_of(path: Path, below: Path) -> Iterator[bytes]:
    """The last part of a file of ours; nothing where there is none."""
    try:
        with os.fdopen(open_safely(path, below), "rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - _MOST_OF_A_LOG)
            file.seek(start)
            if start:
                file.readline(_BLOCK)
            yield from iter(lambda: file.read(_BLOCK), b"")
    except OSError:
        return


# What hosts have.


def _add_hosts(
    writer: BundleWriter, bundle: Bundle, plan: LaunchPlan, diagnosis: Diagnosis, fleet: Fleet
) -> None:
    known = all_labels(plan)
    labels = {name: known.get(name, []) for name in fleet.hosts}
    gathered = diagnosis.gathered
    found = gathered.found if gathered is not None else {}
    order = list(fleet.hosts)
    unreached = {} if gathered is None else gathered.errors

    def collect(agent: Agent) -> list[str]:
        folder = agent.host if writer.is_clean(agent.host) else f"host-{order.index(agent.host)}"
        host = _OfHost(writer, agent, plan, labels[agent.host], folder)
        host.collect(found.get(agent.host))
        return host.left_out

    asked = [name for name in fleet.hosts if name not in unreached]
    answers = fleet.each(collect, asked)
    errors: dict[str, OrchestrateError] = {**unreached, **answers.errors}
    bundle.left_out += [line for lines in answers.values.values() for line in lines]
    bundle.left_out += [f"{name}: it could not be asked: {error}" for name, error in errors.items()]


class _OfHost:
    """What one host gives: logs in blocks, CANN's own as far as they fit, what its tools say."""

    def __init__(
        self, writer: BundleWriter, agent: Agent, plan: LaunchPlan, labels: list[str], folder: str
    ) -> None:
        self.left_out: list[str] = []
        self._folder = folder
        self._writer, self._agent, self._plan, self._labels = writer, agent, plan, labels
        self._left = _MOST_OF_A_HOST

    def collect(self, found: FoundEvidence | None) -> None:
        for label in self._labels:
            rank = Label(label).rank
            self._add("scheduler.log" if rank is None else f"rank-{rank}.txt", self._log(label), label)
        self._add_plogs()
        if found is not None:
            lines = [
                line.text if line.time is None else f"{_stamp(line.time)} {line.text}"
                for line in found.kernel
            ]
            self._writer.add_lines(self._name("dmesg"), lines)
            known = to_json(found)
            facts = {name: known[name] for name in known if name not in ("logs", "kernel")}
            self._writer.add_json(self._name("environment_check/host.json"), facts)
        if self._plan.ascend:
            self._add_tools()

    def _name(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _add(self, name: str, chunks: Iterable[bytes], what: str) -> None:
        try:
            if not self._writer.add(self._name(name), chunks):
                self._leave(f"{what}: the bundle has no room for it")
        except AgentError as error:  # a log that is a link, say
            self._leave(f"{what}: {error.what}")

    def _leave(self, what: str) -> None:
        self.left_out.append(f"{self._agent.host}: {what}")

    def _log(self, label: str) -> Iterator[bytes]:
        """A log as it is now, or the end of it, from the beginning of a line on."""
        run_id = self._plan.run_id
        part, data = self._agent.read_log(run_id, label, -_BLOCK, 0)
        end = int(part.size)
        begin = max(0, end - min(_MOST_OF_A_LOG, self._left))
        if begin:
            self._leave(f"{label}: the first {begin:,} bytes of its log")
        offset, is_whole_line = begin, begin == 0
        while offset < end:
            part, data = self._agent.read_log(run_id, label, offset, min(_BLOCK, end - offset))
            if not data:
                return
            offset += len(data)
            self._left -= len(data)
            if not is_whole_line:
                # A line that was cut could begin in the middle of what is to be masked.
                _, ended, data = data.partition(b"\n")
                is_whole_line = bool(ended)
            yield data

    def _add_plogs(self) -> None:
        try:
            listed = self._agent.list_plogs(self._plan.run_id)
        except AgentError as error:
            self._leave(f"CANN's logs: {error.what}")
            return
        used: set[str] = set()
        others = sum(map(int, listed.left.values()))
        for file in listed.files:
            match = _PLOG.fullmatch(file.path)
            name = _plog_name(match) if match is not None and match["label"] in self._labels else ""
            size = min(int(file.size), _MOST_OF_A_PLOG)
            if not name or name in used or size > self._left:
                others += 1
                continue
            used.add(name)
            if size < file.size:
                self._leave(f"{name}: the first {file.size - size:,} bytes")
            try:
                data = self._agent.read_plog(self._plan.run_id, file.path, size)
            except AgentError:
                others += 1  # CANN has removed it since
                continue
            self._left -= len(data)
            self._add(name, [data.partition(b"\n")[2] if size < file.size else data], name)
        if others:
            self._leave(f"{others} of CANN's logs")

    def _add_tools(self) -> None:
        calls = [["npu-smi", "info"], ["npu-smi", "info", "-m"]]
        devices = sorted({each.device_id for each in self._plan.placements if each.host == self._agent.host})
        calls += [
            ["npu-smi", "info", "-t", kind, "-i", str(npu)] for kind in ("health", "ecc") for npu in devices
        ]
        texts = self._agent.ask_tools(calls, [], tool_timeout=10.0, parallel=4, timeout=120.0)
        lines: list[str] = []
        for call, said in zip(calls, texts.answers, strict=True):
            lines += [f"$ {' '.join(call)}", *(said.failure or said.text).splitlines(), ""]
        self._writer.add_lines(self._name("environment_check/npu_info_after.txt"), map(visible, lines))
        self._leave("device logs of msnpureport, which only root can collect")


def _plog_name(match: re.Match[str]) -> str:
    """The name in the layout, made of numbers."""
    pid, stamp = int(match["pid"]), match["stamp"]
    if match["device"] is None:
        return f"process_log/{match['kind']}/plog/plog-{pid}_{stamp}.log"
    return f"device_log/{match['kind']}/device-{int(match['device'])}/device-{pid}_{stamp}.log"


def _stamp(moment: float) -> str:
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(moment))
    except (ValueError, OverflowError, OSError):
        return "?"
