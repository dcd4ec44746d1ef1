"""The client to a host's agent: a method for each verb, and the one place that looks at what a host says.

A host's answer is a stranger's data. It is bounded in bytes, values, depth and time (`conversation`,
`session`), made of its type (`core.host_answers`), and held against what was asked (`answer_checks`). Text
for people is made visible here. What does not fit costs that host: AnswerError, its session is closed,
nothing of the answer is used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from re import Pattern
from typing import Any

from orchestrator.core.claims import Tombstone
from orchestrator.core.codec import to_json
from orchestrator.core.ends import StopReason
from orchestrator.core.host_answers import (
    Addresses,
    ChatEvent,
    DiskUse,
    FileName,
    Injected,
    LogPart,
    PlogList,
    PlogPath,
    Prepared,
    Probe,
    PutFile,
    Sha256,
    Size,
    StacksAnswer,
    TensorEntry,
    Told,
    ToolTexts,
)
from orchestrator.core.push import Mark, Pushed
from orchestrator.core.records import Attempt, Claim, HostStatus, Manifest, RunOnHost
from orchestrator.hosts.answer_checks import (
    LARGEST,
    LATEST,
    MOST_RANKS,
    is_tensor,
    made_visible,
    run_of,
    stacks_of,
    status_of,
)
from orchestrator.hosts.conversation import Limits
from orchestrator.hosts.copy_questions import CopyQuestions
from orchestrator.hosts.evidence_client import EvidenceClient
from orchestrator.hosts.launch_bundle import launch_bundle
from orchestrator.hosts.push_client import PushClient, Reply, stop_args
from orchestrator.hosts.session import Payload, Session
from orchestrator.hosts.shard_questions import ShardQuestions
from orchestrator.hosts.spare_questions import SpareQuestions

__all__ = ["Agent", "Ranges"]

Ranges = Sequence[tuple[int, int]]

# What a probe finds, and which question it must be a part of.
_PROBED = {
    "busy_devices": "devices",
    "missing_paths": "paths",
    "packages": "packages",
    "taken_ports": "ports",
}
_TOOL_TEXT = 2 << 20
_RUN_TEXT = 1 << 26
_STACKS_TEXT = 1 << 24
# A file of a run comes in pieces of at most so many bytes.
_PIECE = 1 << 20


class Agent(EvidenceClient, ShardQuestions, CopyQuestions, SpareQuestions):
    """The agent of one host, asked from any number of threads, one question at a time.

    Every method raises TransportError where the host cannot be reached (AnswerError where its answer is none,
    CommandTimeout where it is not whole in time), and AgentError where the agent refuses.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.pushes = PushClient(session)

    def watch(self, run_id: str, since: Mark | None, *, every: float, beat: float) -> int:
        """Have the agent tell of a run unasked, which `heard` takes; the sequence it has. See core.push."""
        self.pushes.expect(run_id)
        return self.pushes.watch(since, every=every, beat=beat)

    def heard(self) -> list[Pushed]:
        """What the agent has said since then. Never waits."""
        return [each for each in self.pushes.heard() if not isinstance(each, Reply)]

    # What the host is, and what of it is free.

    def clock(self) -> float:
        """The host's time, in seconds since the epoch."""
        now = self._ask(float, "clock")
        self._expect(0 <= now <= LATEST, "a time")
        return now

    def probe(self, *, timeout: float | None = None, **questions: Any) -> Probe:
        """The facts that decide whether a job can run there; `questions` are those of agent/host_probe.py."""
        # The values of variables are compared with the job's, and made visible where they are shown.
        raw = ("environment", "variables", "missing_paths", "packages")
        limits = Limits(1 << 23, items=1 << 20)
        found = self._ask(Probe, "probe", limits=limits, raw=raw, timeout=timeout, **questions)
        for said, asked in _PROBED.items():
            self._expect(
                set(getattr(found, said)) <= set(questions.get(asked) or ()), f"{asked} that were asked for"
            )
        self._expect(0 <= found.clock <= LATEST, "a time")
        self._expect(found.port is None or 0 < found.port < 1 << 16, "a port")
        return found

    def busy_devices(self, devices: Sequence[int], lock_dir: str | None, run_id: str = "") -> list[int]:
        """Which of these devices another run holds; those that are kept for the next attempt of `run_id` are
        free for it."""
        args: dict[str, Any] = {"run_id": run_id} if run_id else {}
        busy = self._ask(tuple[int, ...], "busy_devices", devices=devices, lock_dir=lock_dir, **args)
        self._expect(set(busy) <= set(devices), "devices that were asked for")
        return list(busy)

    def require_port(self, address: str, port: int | None) -> None:
        """AgentError, kind `port_in_use`, where the scheduler could not listen there."""
        self._do("require_port", address=address, port=port)

    def addresses(self, names: Sequence[str] = (), candidates: Sequence[str] = ()) -> Addresses:
        """What names mean on the host; of the names, those that were asked for."""
        answer = self._ask(Addresses, "addresses", names=names, candidates=candidates)
        self._expect(set(answer.found) <= set(names), "names that were asked for")
        return answer

    def ask_tools(
        self,
        calls: Sequence[Sequence[str]],
        files: Sequence[str],
        *,
        tool_timeout: float,
        parallel: int,
        timeout: float,
    ) -> ToolTexts:
        """What Ascend's tools and files say, as they say it: who reads it shows no more than a `repr`."""
        limits = Limits(text=(8 + len(calls) + len(files)) * _TOOL_TEXT, items=1 << 22)
        texts = self._ask(
            ToolTexts,
            "ask_tools",
            limits=limits,
            raw=("text",),
            timeout=timeout,
            calls=calls,
            files=files,
            tool_timeout=tool_timeout,
            parallel=parallel,
        )
        asked = (len(calls), len(files))
        self._expect((len(texts.answers), len(texts.files)) == asked, "an answer to each question")
        return texts

    # What a run is started and ended with.

    def prepare(
        self,
        manifest: Manifest,
        worker_config: str,
        rank_table: str | None,
        *,
        files: Mapping[str, str] | None = None,
        contents: Mapping[str, bytes] | None = None,
        timeout: float | None = None,
    ) -> Prepared:
        """Make the run's directory and its supervisor, which holds the devices. `files` are the copier's;
        `contents` are put into the host's store before."""
        bundle = launch_bundle(manifest, worker_config, rank_table, files, contents)
        return self._ask(Prepared, "prepare", payload=bundle, timeout=timeout, run_id=manifest.run_id)

    def start(self, run_id: str) -> Told:
        """Start the workers, as far as their import."""
        return self._ask(Told, "start", run_id=run_id)

    def commit(self, run_id: str) -> Told:
        """Every host has started its workers: let them run."""
        return self._ask(Told, "commit", run_id=run_id)

    def stop(self, run_id: str, reason: StopReason, *, timeout: float | None = None) -> Told:
        """End the workers."""
        return self._ask(Told, "stop", timeout=timeout, **stop_args(run_id, reason))

    def renew(self, run_id: str, *, timeout: float | None = None) -> Told:
        """Renew the lease of the run's workers on the host, which end without a monitor and steps."""
        return self._ask(Told, "renew", timeout=timeout, run_id=run_id)

    def release(self, run_id: str, *, timeout: float | None = None) -> None:
        """Let go of the devices that are kept there for the run's next attempt."""
        self._do("release", timeout=timeout, run_id=run_id)

    def undo(self, run_id: str) -> None:
        """Take a launch back."""
        self._do("undo", run_id=run_id)

    def claim(self, run_id: str, take: Claim | None = None) -> Claim:
        """Who may act on the run, after `take` was taken. AgentError, kind `claim`, where that is too old."""
        args = {} if take is None else {"take": to_json(take)}
        found = self._ask(Claim, "claim", run_id=run_id, **args)
        self._expect(0 <= found.epoch < LARGEST, "the epoch of a claim")
        return found

    def bury(self, stone: Tombstone, *, timeout: float | None = None) -> HostStatus:
        """End what runs of an attempt that is over, or of one before; what became of it."""
        return self._status("bury", stone.run_id, MOST_RANKS, timeout, stone=to_json(stone))

    def status(
        self, run_id: str, *, world_size: int = MOST_RANKS, timeout: float | None = None
    ) -> HostStatus:
        """What became of a run's part on the host."""
        return self._status("status", run_id, world_size, timeout)

    def _status(
        self, verb: str, run_id: str, world_size: int, timeout: float | None, **args: Any
    ) -> HostStatus:
        limits, args = Limits(1 << 23, items=1 << 20), {"run_id": run_id, **args}
        data = self._ask(dict[str, Any], verb, limits=limits, timeout=timeout, **args)
        try:
            return status_of(data, run_id, world_size)
        except ValueError as error:
            raise self._none(error) from None

    def list_runs(self, run_id: str = "") -> list[RunOnHost]:
        """Every run on the host, or this one; of one that cannot be read, what is wrong with it."""
        args: dict[str, Any] = {"run_id": run_id} if run_id else {}
        # One by one: what a newer version has written must not hide the others.
        found = self._ask(list[Any], "list_runs", raw=None, limits=Limits(_RUN_TEXT, items=1 << 21), **args)
        return [run_of(data) for data in found]

    # What a run has written.

    def read_log(self, run_id: str, label: str, offset: int, limit: int) -> tuple[LogPart, bytes]:
        """Up to `limit` bytes of a log, from `offset` or, if that is negative, so far from its end."""
        args = {"run_id": run_id, "label": label, "offset": offset, "limit": limit}
        part, data = self._ask_for_data(LogPart, "read_log", limit, **args)
        self._expect((offset < 0 or part.offset <= offset) and part.size < LARGEST, "a part of a log")
        return part, data

    def stacks(self, run_id: str, *, timeout: float = 30.0) -> StacksAnswer:
        """Where in their program the run's ranks are there, as they tell it themselves or the system does."""
        limits = Limits(_STACKS_TEXT)
        (result, _), *_ = self._stream("stacks", limits, timeout=timeout, run_id=run_id)
        try:
            return stacks_of(result)
        except ValueError as error:
            raise self._none(error) from None

    def list_plogs(self, run_id: str) -> PlogList:
        """CANN's own logs of a run. Those that can be none are in `left`, under no label."""
        found = self._ask(PlogList, "list_plogs", run_id=run_id)
        files = tuple(file for file in found.files if PlogPath.FORM.fullmatch(file.path))
        left = dict(found.left)
        if others := len(found.files) - len(files):
            left[""] = Size(left.get("", 0) + others)
        return PlogList(files, left)

    def read_plog(self, run_id: str, path: str, limit: int) -> bytes:
        """The last `limit` bytes of one of them."""
        return self._ask_for_data(None, "read_plog", limit, run_id=run_id, path=path, limit=limit)[1]

    def small_files(
        self,
        run_id: str,
        folder: str,
        known: Pattern[str],
        *,
        total: int = 1 << 28,
        attempt: Attempt | None = None,
    ) -> Iterator[tuple[str | None, bytes]]:
        """Name and content of each file in a folder of the run, in pieces: one name's follow one another.

        The name is None, once for each file, and nothing of the content there, where it is not one of the
        `known` ones. All of them together have `total` bytes at most. Of `attempt`, where one is named.
        """
        pieces = 20_000 + total // _PIECE
        limits = Limits(data=min(total, _PIECE), answers=pieces, total=total, together=True)
        before, args = "", dict[str, Any](run_id=run_id, folder=folder, known=known.pattern)
        args |= {} if attempt is None else {"meant": to_json(attempt)}
        for result, data in self._stream("small_files", limits, **args):
            if result is None:
                continue
            name = self._made(str, result)
            if known.fullmatch(name) and FileName.FORM.fullmatch(name):
                yield name, bytes(data)
            elif name != before:
                yield None, b""
            before = name

    def chat(self, run_id: str, question: Mapping[str, Any], *, timeout: float) -> Iterator[ChatEvent]:
        """What a chat's worker says, a piece at a time; the last one is `done`, or has an `error`."""
        limits = Limits(answers=1 << 20, total=1 << 26)
        payload = json.dumps(question).encode()
        for result, _ in self._stream("chat", limits, payload=payload, timeout=timeout, run_id=run_id):
            if result is not None:
                yield self._made(ChatEvent, made_visible(result, keep="\n\t"))

    # What is brought there.

    def missing(self, hashes: Sequence[str]) -> list[str]:
        """Which of these contents the host has not."""
        found = self._ask(tuple[Sha256, ...], "missing", limits=_many(len(hashes)), hashes=hashes)
        self._expect(set(found) <= set(hashes), "contents that were asked for")
        return list(dict.fromkeys(found))

    def push(self, sha256: str, content: Payload, *, timeout: float | None = None) -> None:
        """Put a content into the host's store. It may be a stream; its length must be known."""
        self._do("push", payload=content, timeout=timeout, sha256=sha256, size=len(content))

    def put_file(self, path: str, data: bytes, sha256: str) -> PutFile:
        """Put a file where the account may write; the hash is of what is there then."""
        return self._ask(PutFile, "put_file", payload=data, path=path, size=len(data), sha256=sha256)

    # What its disk holds.

    def disk_use(self, *, timeout: float | None = None) -> DiskUse:
        """The bytes of every run and of the content store."""
        return self._ask(DiskUse, "disk_use", limits=Limits(_RUN_TEXT, items=1 << 20), timeout=timeout)

    def remove_run(self, run_id: str, *, dry_run: bool, timeout: float | None = None) -> int:
        """Remove a run that is over; the bytes that this frees. AgentError where it is not, or is needed."""
        return self._ask(Size, "remove_run", timeout=timeout, run_id=run_id, dry_run=dry_run)

    def sweep_store(self, without: Sequence[str] = (), *, dry_run: bool, timeout: float | None = None) -> int:
        """Remove what no run but those `without` was given; the bytes that this frees."""
        return self._ask(Size, "sweep_store", timeout=timeout, without=list(without), dry_run=dry_run)

    def inject(self, run_id: str, kind: str, rank: int | None, seconds: float | None) -> Injected:
        """Inject a fault: `kill` or `freeze` a rank, or `fill_disk`, which takes up to 30 s."""
        args: dict[str, Any] = {"run_id": run_id, "fault": kind, "rank": rank, "seconds": seconds}
        return self._ask(Injected, "inject", timeout=60.0, **args)

    # A run's checkpoint.

    def index(self, path: str, *, timeout: float | None = None) -> tuple[TensorEntry, ...]:
        """Where in this file which tensor is."""
        limits = Limits(_RUN_TEXT, items=1 << 21)
        entries = self._ask(
            tuple[TensorEntry, ...], "index", limits=limits, raw=None, timeout=timeout, path=path
        )
        for entry in entries:
            self._expect(is_tensor(entry), "a tensor with its bytes")
        return entries

    def read_segments(
        self,
        buffer: memoryview,
        segments: Sequence[tuple[str, Ranges]],
        identities: Mapping[str, Sequence[int]],
        *,
        timeout: float,
    ) -> Iterator[tuple[memoryview, int]]:
        """The bytes of each segment, in `buffer` until the next one, and the host's crc32 of them."""
        sizes = [sum(length for _, length in ranges) for _, ranges in segments]
        limits = Limits(data=max(sizes, default=0), answers=len(sizes) + 1)
        args = {"segments": segments, "identities": identities}
        answers = self._session.stream("read_segments", args, limits, timeout=timeout, buffer=buffer)
        for size in sizes:
            crc, data = next(answers, (None, memoryview(b"")))
            self._expect(len(data) == size, f"{size} bytes")
            yield data, self._made(Size, crc)
        for _, data in answers:
            self._expect(not data, "no more bytes")

    def sum_segments(
        self,
        segments: Sequence[tuple[str, Ranges]],
        identities: Mapping[str, Sequence[int]],
        *,
        timeout: float,
    ) -> tuple[int, ...]:
        """The host's crc32 of each segment, whose bytes stay there."""
        limits = _many(len(segments))
        sums = self._ask(
            tuple[Size, ...],
            "sum_segments",
            limits=limits,
            timeout=timeout,
            segments=segments,
            identities=identities,
        )
        self._expect(len(sums) == len(segments), f"{len(segments)} sums")
        return sums


def _many(count: int) -> Limits:
    """For a list of so many hashes."""
    return Limits(text=4096 + 80 * count, items=1000 + count)
