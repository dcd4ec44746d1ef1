"""The shards that a simulated host has saved, and the verbs that find, check, read and place them.

Nothing is stored: which steps an attempt has saved whole is its gang's matter. A shard has a few bytes of its
own here; it is read and sent as long as the workload's `shard_bytes` take at its `move_rate`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.agent.request_loop import Answer
from orchestrator.config.yaml_reader import parse_yaml
from orchestrator.core.errors import AgentError, CheckpointError
from orchestrator.core.host_answers import Sha256, ShardCheck, ShardName, ShardRow, Size
from orchestrator.core.records import Attempt
from orchestrator.simulation.sim_attempts import in_force, reading
from orchestrator.simulation.sim_values import Value

if TYPE_CHECKING:
    from orchestrator.simulation.sim_agent import SimAgent
    from orchestrator.simulation.sim_host import SimHost
    from orchestrator.simulation.sim_process import SimRun
    from orchestrator.simulation.workload import Gang

__all__ = ["SHARD_VERBS", "keep_passed_over", "reading_seconds"]

Args = Mapping[str, Any]
_SIZE = 64
_CHANGED = 1_700_000_000_000_000_000
_WHOLE = ShardCheck(summed=True)


class _Shard(NamedTuple):
    """One file, by the attempt that saved it, its rank and its step."""

    attempt: int
    rank: int
    step: int
    folder: str

    @property
    def path(self) -> str:
        return f"{self.folder}/rank_{self.rank}/checkpoint_rank_{self.rank}-1_{self.step}.ckpt"

    @property
    def identity(self) -> tuple[int, int, int]:
        """Its size, when it was last changed, and its inode."""
        inode = (self.attempt << 44) + (self.rank << 28) + self.step
        return _SIZE, _CHANGED + self.step, inode

    @property
    def content(self) -> bytes:
        return f"rank {self.rank}, step {self.step} of attempt {self.attempt}".encode().ljust(_SIZE)

    def row(self) -> ShardRow:
        return ShardRow(
            rank=Size(self.rank),
            epoch=Size(1),
            step=Size(self.step),
            rerun=Size(0),
            path=ShardName(self.path),
            identity=self.identity,
            attempt=Size(self.attempt),
        )


def _attempts(run: SimRun) -> Iterator[SimRun]:
    """Those of a run that this host has, the newest first."""
    found: SimRun | None = run
    while found is not None:
        yield found
        found = found.before


def _shards(host: SimHost, run: SimRun) -> Iterator[_Shard]:
    """What one attempt has on this host, and has not been told to remove."""
    number = run.manifest.attempt.number
    folder = f"{host.workdir}/runs/{run.manifest.run_id}/attempts/{number}/checkpoint"
    for step in run.gang.kept_steps:
        if step not in run.unsaved and (number, step) >= run.oldest_kept:
            for worker in run.manifest.workers:
                yield _Shard(number, worker.rank, step, folder)


def _saved(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    run, tokens = agent.host.run(args["run_id"]), args.get("tokens", {})
    rows = []
    for attempt in _attempts(run):
        token = tokens.get(str(attempt.manifest.attempt.number), "")
        if token in ("", attempt.manifest.attempt.token):
            rows += [shard.row() for shard in _shards(agent.host, attempt)]
    yield Answer(Value(tuple(rows)))


def _listed(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    yield Answer(Value(tuple(shard.row() for shard in _shards(agent.host, reading(agent.host, args)))))


def _iterations(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    reading(agent.host, {"run_id": args["run_id"], "meant": args["meant"]})
    yield Answer({"tracker": None, "iterations": []})


def _by_path(host: SimHost) -> dict[str, _Shard]:
    """All shards of a host."""
    attempts = [attempt for run in host.runs.values() for attempt in _attempts(run)]
    return {shard.path: shard for attempt in attempts for shard in _shards(host, attempt)}


def _found(shards: Mapping[str, _Shard], path: str, identity: Any = None) -> _Shard:
    """The shard of this path. CheckpointError: it is not there, or is another one by now."""
    shard = shards.get(path)
    if shard is None or (identity is not None and list(identity) != list(shard.identity)):
        raise CheckpointError("cannot be read: No such file or directory", where=path)
    return shard


def _check_shard(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    shard = _found(_by_path(agent.host), args["path"], args["identity"])
    sha256 = hashlib.sha256(shard.content).hexdigest() if args["hashed"] else None
    yield Answer(Value(_whole(sha256)))


def _check_shards(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    rows: list[ShardCheck] = []
    known = _by_path(agent.host)
    for path, identity, hashed in args["files"]:
        try:
            shard = _found(known, path, identity)
        except CheckpointError as error:
            rows.append(ShardCheck(summed=False, damage=str(error)))
        else:
            sha256 = hashlib.sha256(shard.content).hexdigest() if hashed else None
            rows.append(_whole(sha256))
    yield Answer(Value(tuple(rows)))


def _whole(sha256: str | None) -> ShardCheck:
    return _WHOLE if sha256 is None else ShardCheck(summed=True, sha256=Sha256(sha256))


def _read_segments(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    known = _by_path(agent.host)
    for path, spans in args["segments"]:
        content = _found(known, path, args["identities"].get(path)).content
        data = b"".join(content[start : start + length] for start, length in spans)
        yield Answer(zlib.crc32(data), data, more=True)
    yield Answer()


def _place_shards(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    host = agent.host
    run = in_force(host, args)
    number, (_, step) = args["number"], args["origin"]
    if run.manifest.attempt.number != number:
        raise AgentError(f"attempt {number} is not in force here", kind="other_attempt")
    known = _by_path(host)
    for load in args["loads"]:
        try:
            _found(known, load["source"], load["identity"])
        except CheckpointError as error:
            raise AgentError(f"{load['source']}: {error.what}", kind="missing_shard") from None
    if step:  # (0, 0): anew, or where a program is told otherwise
        run.gang.begin_at(step)
    yield Answer()


def _tell_step(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    """What is older than the newest step that is complete over all hosts goes."""
    _keep(in_force(agent.host, args), (int(args["number"]), int(args["step"])))
    yield Answer()


def _keep(run: SimRun, oldest: tuple[int, int]) -> None:
    for attempt in _attempts(run):
        attempt.oldest_kept = max(attempt.oldest_kept, oldest)
        if attempt.manifest.attempt.number <= oldest[0]:
            attempt.before = None  # nothing of those before is left


def keep_passed_over(hosts: Iterable[SimHost], gang: Gang) -> None:
    """What a monitor has had its hosts remove while saves were made that nobody looked at."""
    kept = gang.kept_steps
    runs = [run for host in hosts for run in host.runs.values() if run.gang is gang]
    # Of the last one it may not be known yet that all have it.
    if len(kept) > 1 and not any(kept[0] in run.unsaved for run in runs):
        for run in runs:
            _keep(run, (run.manifest.attempt.number, kept[0]))


def _small_files(agent: SimAgent, args: Args, body: bytes) -> Iterator[Answer]:
    """The strategies of what was saved: one for each stage that the host has ranks of."""
    meant = Attempt(**args["meant"]) if args.get("meant") else None
    run = next(
        (
            each
            for each in _attempts(agent.host.run(args["run_id"]))
            if meant in (None, each.manifest.attempt)
        ),
        None,
    )
    if run is None:
        raise AgentError(f"no such attempt of run {args['run_id']} on this host", kind="no_run")
    if args["folder"] == "strategy" and run.gang.kept_steps:
        for rank, content in _strategies(run).items():
            yield Answer(f"strategy_rank_{rank}.ckpt", content, more=True)
    yield Answer()


def _strategies(run: SimRun) -> dict[int, bytes]:
    degrees, replica = _degrees(run.worker_config), run.gang.workload.replica
    if replica is not None:
        degrees = ((run.manifest.world_size or replica) // replica, replica, 1)
    if degrees is None:
        return {}
    data_parallel, model_parallel, stages = degrees
    size = data_parallel * model_parallel
    firsts: dict[int, int] = {}
    for worker in run.manifest.workers:
        firsts.setdefault(worker.rank // size, worker.rank)
    return {
        rank: _strategy(stage, data_parallel, model_parallel)
        for stage, rank in firsts.items()
        if stage < stages
    }


@functools.lru_cache(maxsize=8)
def _degrees(worker_config: str) -> tuple[int, int, int] | None:
    """By how much the job cuts data, model and layers; None for a program that says nothing of it."""
    data = parse_yaml("worker.yaml", worker_config.encode()).data if worker_config else {}
    parallel = data.get("parallel")
    if not parallel:
        return None
    names = ("data_parallel", "model_parallel", "pipeline_stage")
    found = [int(parallel.get(name) or 1) for name in names]
    return found[0], found[1], found[2]


@functools.lru_cache(maxsize=64)
def _strategy(stage: int, data_parallel: int, model_parallel: int) -> bytes:
    """A stage of one parameter, which the model group cuts and of which every replica has all."""
    layout = {"dev_matrix": [data_parallel, model_parallel], "tensor_map": [0]}
    item = {"stage": stage}
    return json.dumps({"parallel_strategy_item": {"w": item}, "parallel_layout_item": {"w": layout}}).encode()


def reading_seconds(host: SimHost, verb: str, args: Args) -> float:
    """How long the host needs to read what it is asked for, beyond what any request takes."""
    if verb != "read_segments":
        return 0.0
    loads = [run.gang.workload for run in host.runs.values()]
    longest = max((load.shard_bytes / load.move_rate for load in loads), default=0.0)
    return len(args["segments"]) * longest


SHARD_VERBS = {
    "check_shard": _check_shard,
    "check_shards": _check_shards,
    "iterations": _iterations,
    "place_shards": _place_shards,
    "read_segments": _read_segments,
    "saved": _saved,
    "shards": _listed,
    "small_files": _small_files,
    "tell_step": _tell_step,
}
