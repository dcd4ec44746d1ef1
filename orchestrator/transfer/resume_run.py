"""Going on with a run that has ended, as its next attempt: each shard brought to the host that needs it.

Replicas of other hosts go through this machine, straight into the content store of the host that needs them,
under their hashes. Into another layout the step is collected here and cut anew, as `distribute` does it.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from orchestrator.checkpoint.companion_files import SmallFile
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.config.mindformers_job import MINDFORMERS
from orchestrator.control.next_attempt import start_next_attempt
from orchestrator.core.errors import CheckpointError, TransportError
from orchestrator.core.paths import ControlDir
from orchestrator.core.records import Attempt, Input
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.bulk_channel import BulkAgents
from orchestrator.hosts.fleet import Fleet, fleet_of
from orchestrator.hosts.push_content import ContentFile, push_missing
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.next_plan import load_folder
from orchestrator.preflight.gather_facts import look_at_hosts
from orchestrator.preflight.host_facts import needs_of
from orchestrator.transfer.collect import Collection, collect
from orchestrator.transfer.distribute import Progress, cut_for, distribute, hash_shards, with_inputs
from orchestrator.transfer.distribute_launch import with_shards
from orchestrator.transfer.plan_resume import Resumption, shard_name
from orchestrator.transfer.run_files import RunFiles
from orchestrator.transfer.saved_attempts import CheckedStep
from orchestrator.transfer.small_files import Spool, gather
from orchestrator.transfer.step_spool import require_room, step_spool

__all__ = ["brought", "resume"]

_SEND_TIMEOUT = 300.0
_SEGMENT = 4 << 20


def resume(
    found: Resumption,
    progress: Progress | None = None,
    *,
    start: Callable[[ControlDir, LaunchPlan], None] = start_next_attempt,
) -> ControlDir:
    """Bring each host what it lacks, and hand the next attempt to a monitor; its record tells how it goes.

    `start` is given the complete plan.
    Raises what keeps a host from running the job, before anything is moved; TransportError and AgentError
    where something cannot be moved. What has been moved by then stays in the hosts' stores.
    """
    plan = found.plan
    if found.step is None:
        plan = with_shards(found.job, plan, progress)
    else:
        look_at_hosts(needs_of(plan), plan.ssh).raise_on_failure()
        with fleet_of(found.hosts, plan.ssh) as fleet:
            plan = brought(fleet, found, progress)
    start(found.control, plan)
    return found.control


def brought(fleet: Fleet, found: Resumption, progress: Progress | None = None) -> LaunchPlan:
    """Bring each host what it lacks of the step, or of the checkpoint that the job begins with; the plan,
    complete. Raises as `resume` does."""
    if found.step is None:
        return with_shards(found.job, found.plan, progress, fleet)
    inputs = _moved(fleet, found, found.step, progress or (lambda what, done, total: None))
    return with_inputs(found.plan, inputs)


def _moved(fleet: Fleet, found: Resumption, step: CheckedStep, progress: Progress) -> dict[str, list[Input]]:
    """What each host places from its store, once it is there."""
    if step.sources is None:
        require_room(found.control, sum(found.moves.collected.values()))
    # What MindFormers' networks need beside the weights is in the run YAML.
    inputs = _model_files(fleet, found, step) if found.plan.task != MINDFORMERS else {}
    brought = (
        _anew(fleet, found, step, progress)
        if step.sources is None
        else _replicas(fleet, found, step, progress)
    )
    for host, items in brought.items():
        inputs.setdefault(host, []).extend(items)
    return inputs


@dataclass(frozen=True, slots=True)
class _Content:
    """A content that is read anew each time it is gone through."""

    size: int
    pieces: Callable[[], Iterator[bytes | memoryview]]

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        return self.pieces()


def _model_files(fleet: Fleet, found: Resumption, step: CheckedStep) -> dict[str, list[Input]]:
    """Configuration and tokenizer, beside the shards where each host's workers look for them."""
    saved, run_id = step.step.attempt, found.plan.run_id
    attempt = Attempt(saved.number, saved.token)
    names = [host.name for host in found.plan.hosts]
    with step_spool(found.control) as spooled:
        files: dict[str, SmallFile] = {}
        with fleet.part({host for host, _ in step.files}) as part:
            for kind in ("checkpoint", "model"):
                gathered = gather(part, run_id, kind, lambda host: None, Spool(), attempt=attempt)
                files.update(gathered.files)
        contents = {file.sha256: _spooled(file, spooled / file.sha256) for file in files.values()}
        if contents:
            fleet.each(
                lambda agent: push_missing(agent, contents, timeout=_SEND_TIMEOUT), names
            ).raise_on_error()
    folder = load_folder(found.plan.attempt.number)
    return {name: [Input(f"{folder}/{one}", file.sha256) for one, file in files.items()] for name in names}


def _spooled(file: SmallFile, path: Path) -> ContentFile:
    """The content as a file of its own: it is sent to several hosts at once."""
    with path.open("wb") as written:
        for piece in file.read():
            written.write(piece)
    return ContentFile(path)


def _replicas(
    fleet: Fleet, found: Resumption, step: CheckedStep, progress: Progress
) -> dict[str, list[Input]]:
    """The shards that ranks load which have them on another host, through this machine."""
    placed = {item.rank: item.host for item in found.plan.placements}
    wanted: dict[str, dict[str, tuple[str, ShardFile]]] = {}
    inputs: dict[str, list[Input]] = {}
    folder = load_folder(found.plan.attempt.number)
    for rank, (host, file) in (step.sources or {}).items():
        if placed[rank] == host:
            continue
        sha256 = step.checks[host, file.path].sha256
        if sha256 is None:
            raise CheckpointError("was not hashed", where=f"{host}: {file.path}")
        wanted.setdefault(placed[rank], {})[str(sha256)] = (host, file)
        name = shard_name(rank, step, found.plan)
        inputs.setdefault(placed[rank], []).append(Input(f"{folder}/{name}", str(sha256)))
    if not wanted:
        return inputs
    total, done = sum(found.moves.sent.values()), [0]

    def count(nbytes: int) -> None:
        done[0] += nbytes  # roughly: a lost update is a figure on a bar
        progress("sending", done[0], total)

    with closing(BulkAgents(fleet, found.plan.ssh)) as bulk:

        def send(agent: Agent) -> None:
            contents = {sha256: _remote(bulk, *place) for sha256, place in wanted[agent.host].items()}
            push_missing(agent, contents, timeout=_SEND_TIMEOUT, count=count)

        fleet.each(send, wanted).raise_on_error()
    return inputs


def _remote(bulk: BulkAgents, host: str, file: ShardFile) -> _Content:
    """A file of another host, read as it is sent on."""
    size = file.identity[0]

    def pieces() -> Iterator[bytes | memoryview]:
        spans = [(start, min(_SEGMENT, size - start)) for start in range(0, size, _SEGMENT)]
        buffer = memoryview(bytearray(min(_SEGMENT, size)))
        segments = [(file.path, [span]) for span in spans]
        with bulk.agent(host) as agent:
            identities = {file.path: file.identity}
            for data, crc in agent.read_segments(buffer, segments, identities, timeout=_SEND_TIMEOUT):
                if zlib.crc32(data) != crc:
                    raise TransportError("what arrives differs from what the host has", where=host)
                yield data

    return _Content(size, pieces)


class _StepFiles(RunFiles):
    """The files of one step of one attempt, all of them read by their hosts."""

    def __init__(self, fleet: Fleet, found: Resumption, step: CheckedStep) -> None:
        super().__init__(fleet, found.plan.run_id, found.plan.ssh, via_hosts=True)
        self._files: dict[str, list[ShardFile]] = {}
        for (host, _), file in step.files.items():
            self._files.setdefault(host, []).append(file)

    def list_shards(self, host: str) -> Sequence[ShardFile]:
        files = self._files.get(host, [])
        self._listed.update({(host, file.path): file for file in files})
        return files


def _anew(fleet: Fleet, found: Resumption, step: CheckedStep, progress: Progress) -> dict[str, list[Input]]:
    """The step put together here and cut for the new layout; each host gets what its ranks load."""
    saved, plan = step.step.attempt, found.plan
    hosts = sorted({host for host, _ in step.files})
    wanted = Collection(
        strategies=saved.strategies,
        world_size=saved.world_size,
        step=step.step.choice.step,
        with_optimizer=True,
        source=plan.run_id,
        placed=saved.placed,
    )
    options = dataclasses.replace(found.job.checkpoint, resume=True)
    job = found.job.model_copy(update={"checkpoint": options})
    with step_spool(found.control) as folder:
        with closing(_StepFiles(fleet, found, step)) as files:
            whole = collect(files, hosts, wanted, folder / "whole.ckpt").path
        shards = cut_for(job, plan.placements, whole)
        hashes = hash_shards(shards, progress)
        with fleet.part(shards.ranks) as part:
            distribute(part, shards, hashes, progress)
    load = load_folder(plan.attempt.number)
    return {
        host: [Input(f"{load}/{shard_name(rank, step, plan)}", hashes[rank]) for rank in ranks]
        for host, ranks in shards.ranks.items()
    }
