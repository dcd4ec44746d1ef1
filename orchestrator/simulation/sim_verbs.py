"""The answers of a simulated host's agent, verb by verb, as agent/verbs_*.py give them."""

from __future__ import annotations

import binascii
import contextlib
import errno
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.agent.attempt_guard import attempt_in, claim_in
from orchestrator.agent.request_loop import Answer
from orchestrator.agent.stop_grace import STACKS
from orchestrator.core.claims import NO_CLAIM, Tombstone
from orchestrator.core.codec import DecodeError, from_json, to_json
from orchestrator.core.ends import SCHEDULER, StopReason
from orchestrator.core.errors import AgentError
from orchestrator.core.host_answers import RankStacks, StacksAnswer
from orchestrator.core.paths import RUN_YAML
from orchestrator.core.push import Mark
from orchestrator.core.record_class import replace
from orchestrator.core.records import Manifest, RunOnHost
from orchestrator.simulation.sim_attempts import (
    bury,
    in_force,
    is_meant,
    reading,
    require_room,
    take_claim,
    told_of,
)
from orchestrator.simulation.sim_evidence import found_of
from orchestrator.simulation.sim_facts import FACT_VERBS
from orchestrator.simulation.sim_keeping import KEEPING_VERBS
from orchestrator.simulation.sim_process import SimProcess, SimRun
from orchestrator.simulation.sim_shards import SHARD_VERBS
from orchestrator.simulation.sim_supervisor import SimSupervisor
from orchestrator.simulation.sim_values import LaunchValue, Value

if TYPE_CHECKING:
    from orchestrator.simulation.sim_agent import SimAgent
    from orchestrator.simulation.sim_host import SimHost

__all__ = ["THINKING", "answers_to"]

TOLD_STEP = "ORCHESTRATE_CHECKPOINT_STEP"

THINKING: Mapping[str, float] = {
    "": 0.004,
    "probe": 0.25,
    "ask_tools": 0.3,
    "prepare": 0.12,
    "start": 0.03,
    "stacks": 0.5,
    "undo": 0.1,
}
"""Seconds that a host takes for a verb; "" for any other."""

Args = Mapping[str, Any]


def answers_to(agent: SimAgent, verb: str, args: Args, body: bytes) -> Iterator[Answer]:
    """The answers to one request. Raises AgentError and OSError as the verbs do."""
    if verb not in _VERBS:
        raise AgentError(f"the agent knows no verb `{verb}`", kind="unknown_verb")
    yield from _VERBS[verb](agent, args, body)


def _clock(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    yield Answer(agent.host.time())


def _busy_devices(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    yield Answer(agent.host.busy_devices(args["devices"], args.get("run_id", "")))


def _require_port(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    if args["port"] in agent.host.taken_ports:
        raise AgentError(
            f"port {args['port']} on {args['address']} cannot be used: Address already in use",
            remedy="set networking.port to a free one, or leave it out to have one chosen",
            kind="port_in_use",
        )
    yield Answer()


def _missing(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    yield Answer([sha256 for sha256 in args["hashes"] if sha256 not in agent.host.store])


def _push(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    _require_space(agent.host, f"{agent.host.workdir}/store")
    if hashlib.sha256(body).hexdigest() != args["sha256"]:
        raise AgentError(f"a pushed file arrived damaged: {args['sha256'][:12]} expected", kind="damaged")
    agent.host.store[args["sha256"]] = len(body)
    yield Answer()


def _prepare(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    host = agent.host
    manifest, hashes, worker_config, contents = _opened(body)
    if contents:
        _require_space(host, f"{host.workdir}/store")
        host.store.update(contents)
    before = host.runs.get(manifest.run_id)
    require_room(host, before, manifest, claim_in(args))
    before = host.runs.get(manifest.run_id)
    take_claim(host, manifest.run_id, args)
    if manifest.scheduler is not None and manifest.port is not None and manifest.port in host.taken_ports:
        raise AgentError(f"port {manifest.port} cannot be used", kind="port_in_use")
    _require_space(host, f"{host.workdir}/runs/{manifest.run_id}")
    for item in manifest.inputs:
        if item.sha256 not in host.store:
            raise AgentError(f"{item.path} is not in the content store", kind="missing_input")
    if busy := host.busy_devices(manifest.devices, manifest.run_id):
        raise AgentError(f"device {busy[0]} is in use by another run", kind="device_busy")
    run = SimRun(manifest, hashes, host.gang_of(manifest), worker_config)
    _begin_where_told(run)
    run.before, run.claim = before, claim_in(args)
    if before is not None:
        before.supervisor = None  # it has ended, or there would have been no room; what it wrote is there
    host.runs[manifest.run_id] = run
    host.keeping.take(manifest.run_id)
    run.supervisor = SimSupervisor(host, run)
    yield Answer({"hashes": run.hashes, "run_dir": f"{host.workdir}/runs/{manifest.run_id}"})


def _begin_where_told(run: SimRun) -> None:
    """A program that is told of its checkpoint goes on from there."""
    told = next((worker.env for worker in run.manifest.workers), {}).get(TOLD_STEP, "")
    if told.isdecimal():
        run.gang.begin_at(int(told))


def _opened(body: bytes | LaunchValue) -> tuple[Manifest, Mapping[str, str], str, Mapping[str, int]]:
    """The manifest of a bundle, the hashes of its files, the configuration of workers, the sizes of contents.

    All but the manifest are the same on all hosts.
    """
    if isinstance(body, LaunchValue):
        manifest = _sharing(body.manifest)
        hashes = _hashes(body.worker_config, body.rank_table, body.run_yaml)
        sizes = {sha256: len(data) for sha256, data in body.contents.items()}
        return manifest, hashes, body.worker_config, sizes
    # No text in JSON has a quote that is not escaped: the last such key is the bundle's own.
    own, key, common = body.rpartition(b', "worker_config": ')
    bundle = json.loads(own + b"}")
    manifest = _sharing(from_json(Manifest, bundle["manifest"]))
    hashes, worker_config = _hashes_of(key[2:] + common)
    if (text := bundle.get("files", {}).get(RUN_YAML)) is not None:
        hashes = {**hashes, RUN_YAML: hashlib.sha256(text.encode()).hexdigest()}
    sizes = {sha256: len(binascii.a2b_base64(text)) for sha256, text in bundle.get("contents", {}).items()}
    return manifest, hashes, worker_config, sizes


def _sharing(manifest: Manifest) -> Manifest:
    """The same, in less memory: each of a thousand manifests names all hosts, and all files that are sent."""
    return replace(manifest, hosts=_once(manifest.hosts), inputs=_once(manifest.inputs))


@functools.lru_cache(maxsize=8)
def _once(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    """One tuple for all that are equal."""
    return parts


@functools.lru_cache(maxsize=2)
def _hashes_of(common: bytes) -> tuple[Mapping[str, str], str]:
    bundle = json.loads(b"{" + common)
    return _hashes(bundle["worker_config"], bundle["rank_table"]), bundle["worker_config"]


@functools.lru_cache(maxsize=2)
def _hashes(worker_config: str, rank_table: str | None, run_yaml: str | None = None) -> Mapping[str, str]:
    files = {"worker.yaml": worker_config, "rank_table.json": rank_table, RUN_YAML: run_yaml}
    return {
        name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items() if text is not None
    }


def _require_space(host: SimHost, path: str) -> None:
    if host.is_full:
        raise OSError(errno.ENOSPC, "No space left on device", path)


def _told(agent: SimAgent, verb: str, args: Args) -> Answer:
    run = in_force(agent.host, args)
    take_claim(agent.host, args["run_id"], args)
    supervisor = run.supervisor
    if verb == "stop":
        agent.host.keeping.release(args["run_id"])
    if supervisor is not None and supervisor.is_alive:
        supervisor.heard()
        if verb == "stop":
            supervisor.stop(_reason_of(args), now=bool(args.get("now")))
        else:
            {"start": supervisor.start, "commit": supervisor.commit}[verb]()
        return Answer(supervisor.answer())
    if verb == "start":
        raise AgentError("the supervisor does not answer: No such file or directory", kind="no_supervisor")
    status = agent.host.status(run)
    label = "" if status.failed_first is None else f"rank_{status.failed_first}"
    return Answer({"phase": "over", "failed_first": label, "reason": ""})


def _reason_of(args: Args) -> StopReason:
    with contextlib.suppress(DecodeError, KeyError):
        return from_json(StopReason, args["why"])
    return StopReason.requested(str(args.get("reason", "stopped")))


def _start(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    yield _told(agent, "start", args)


def _commit(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    yield _told(agent, "commit", args)


def _stop(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    agent.host.told = agent.host.told or time.perf_counter()
    yield _told(agent, "stop", args)


def _undo(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    run = agent.host.runs.get(args["run_id"])
    take_claim(agent.host, args["run_id"], args)
    if run is not None and not is_meant(run, args):
        run = None
    if run is not None:
        agent.host.keeping.release(args["run_id"])
    if run is not None and run.supervisor is not None and run.supervisor.is_alive:
        run.supervisor.undo()
    elif run is not None:
        agent.host.discard(run)
    yield Answer()


def _status(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    status = agent.host.status(in_force(agent.host, args))
    yield Answer(Value(replace(status, clock=agent.host.time())))


def _watch(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    said = args.get("since")
    since = None if said is None else from_json(Mark, said)
    every, beat = from_json(float, args["every"]), from_json(float, args["beat"])
    yield Answer({"sequence": agent.watch(in_force(agent.host, args), since, every, beat)})


def _list_runs(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    runs = [
        told_of(agent.host, RunOnHost(run.manifest, agent.host.status(run)))
        for run_id, run in agent.host.runs.items()
        if args.get("run_id", "") in ("", run_id)
    ]
    yield Answer(to_json(runs))


def _read_log(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    run = reading(agent.host, args)
    data, offset = run.log(args["label"]), args["offset"]
    if args["label"] not in run.logs:
        yield Answer({"offset": 0, "size": 0})
        return
    start = max(0, len(data) + offset) if offset < 0 else min(offset, len(data))
    found = {"offset": start, "size": len(data), "modified": agent.host.time()}
    yield Answer(found, data[start : start + args["limit"]])


def _stacks(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    """A rank that hangs is where nobody else is, and who waits for it is in a collective."""
    run = agent.host.run(args["run_id"])
    processes = {} if run.supervisor is None else run.supervisor.processes
    ranks = {
        str(rank): _stacks_of(run, process)
        for rank, process in processes.items()
        if process.is_running and rank != SCHEDULER
    }
    yield Answer(to_json(StacksAnswer(ranks)))


def _stacks_of(run: SimRun, process: SimProcess) -> RankStacks:
    if process.is_frozen:
        return RankStacks("kernel", state="State: T (stopped)\nwchan: do_signal_stop\n")
    state = "State: S (sleeping)\nwchan: futex_wait_queue\n"
    if STACKS not in run.gang.workload.can:
        return RankStacks("kernel", state=state)
    if process.is_hung:
        inner = '  File "data.py", line 12 in read'
    else:
        inner = f'  File "collectives.py", line {30 if run.gang.is_moving else 40} in all_reduce'
    text = f'Current thread 0x1 (most recent call first):\n{inner}\n  File "train.py", line 7 in <module>\n'
    return RankStacks("faulthandler", text, state)


def _list_plogs(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    agent.host.run(args["run_id"])
    yield Answer({"files": [], "left": {}})


def _evidence(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    yield Answer(Value(found_of(agent.host, agent.host.run(args["run_id"]))))


def _disk_use(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    host = agent.host
    runs = [{"run_id": run_id, "nbytes": 1 << 20} for run_id in host.runs]
    yield Answer({"runs": runs, "store": sum(host.store.values())})


def _remove_run(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    run: SimRun | None = agent.host.run(args["run_id"])
    if run is not None and not agent.host.status(run).is_over:
        raise AgentError("it has not ended", kind="run_active")
    while run is not None and not args["dry_run"]:
        agent.host.discard(run)
        run = agent.host.runs.get(args["run_id"])
    yield Answer(1 << 20)


def _claim(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    agent.host.run(args["run_id"])
    if args.get("take") is not None:
        take_claim(agent.host, args["run_id"], {"claim": args["take"]})
    yield Answer(to_json(agent.host.claims.get(args["run_id"], NO_CLAIM)))


def _bury(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    run = agent.host.run(args["run_id"])
    stone = args["stone"]
    told = stone.value if isinstance(stone, Value) else from_json(Tombstone, stone)
    bury(agent.host, run, told, attempt_in(args))
    yield Answer(Value(replace(agent.host.status(run), clock=agent.host.time())))


_VERBS: Mapping[str, Callable[[SimAgent, Args, bytes], Iterator[Answer]]] = {
    "bury": _bury,
    "claim": _claim,
    "busy_devices": _busy_devices,
    "clock": _clock,
    "commit": _commit,
    "disk_use": _disk_use,
    "evidence": _evidence,
    "list_plogs": _list_plogs,
    "list_runs": _list_runs,
    "missing": _missing,
    "prepare": _prepare,
    "push": _push,
    "read_log": _read_log,
    "remove_run": _remove_run,
    "require_port": _require_port,
    "stacks": _stacks,
    "start": _start,
    "status": _status,
    "stop": _stop,
    "undo": _undo,
    "watch": _watch,
    **FACT_VERBS,
    **KEEPING_VERBS,
    **SHARD_VERBS,
}
