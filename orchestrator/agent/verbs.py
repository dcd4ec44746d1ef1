"""What a session can ask of a host: one small function per verb, and the table of them."""

from __future__ import annotations

import json
import shutil
import time
import zlib
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, Mapping, Union

from orchestrator.agent import probe as probing
from orchestrator.agent import runs
from orchestrator.agent.locks import busy_devices
from orchestrator.agent.prepare import prepare
from orchestrator.agent.store import Store
from orchestrator.layout import Workdir
from orchestrator.records import Manifest

__all__ = ["VERBS", "Answer", "Request"]


@dataclass(frozen=True)
class Request:
    """One request: where, what, and the bytes that came with it."""

    workdir: Workdir
    args: Mapping[str, Any]
    payload: Any

    def run(self) -> Any:
        return runs.find(self.workdir, self.args["run_id"])


@dataclass(frozen=True)
class Answer:
    """One answer; `more` says that another one follows."""

    result: Any = None
    data: Union[bytes, memoryview] = b""
    more: bool = False
    error: Any = None

    @classmethod
    def refusal(cls, what: str, remedy: str, kind: str) -> Answer:
        return cls(error={"what": what, "remedy": remedy, "kind": kind})

    def header(self) -> Dict[str, Any]:
        if self.error is not None:
            return {"ok": False, "error": self.error}
        return {"ok": True, "result": self.result, "bytes": len(self.data), "more": self.more}


def _clock(request: Request) -> Iterator[Answer]:
    """Nothing but the time: the control node compares it with its own at both ends of the call."""
    yield Answer(time.time())


def _probe(request: Request) -> Iterator[Answer]:
    yield Answer(probing.probe(request.workdir, **request.args))


def _ask_tools(request: Request) -> Iterator[Answer]:
    # Late: each host compiles the agent at every session, and CPU hosts never need this part of it.
    from orchestrator.agent import tools

    args = request.args
    answers = tools.ask_tools(args["calls"], timeout=args["tool_timeout"], parallel=args["parallel"])
    yield Answer({"answers": answers, "files": [tools.read_text(path) for path in args["files"]]})


def _busy_devices(request: Request) -> Iterator[Answer]:
    """Which of these devices another run of ours holds; quick, and before anything else is asked."""
    lock_dir = request.args["lock_dir"]
    folder = request.workdir.locks if lock_dir is None else Workdir(lock_dir).root
    yield Answer(busy_devices(folder, request.args["devices"]))


def _missing(request: Request) -> Iterator[Answer]:
    yield Answer(Store(request.workdir.store).missing(request.args["hashes"]))


def _push(request: Request) -> Iterator[Answer]:
    store = Store(request.workdir.store)
    store.receive(request.args["sha256"], request.args["size"], request.payload)
    yield Answer()


def _put_file(request: Request) -> Iterator[Answer]:
    from orchestrator.agent.put_file import put_file  # late, as above: only `rank-table push` needs it

    args = request.args
    yield Answer(put_file(args["path"], request.payload, size=args["size"], sha256=args["sha256"]))


def _prepare(request: Request) -> Iterator[Answer]:
    bundle = json.loads(request.payload.read())
    manifest = Manifest.from_json(bundle["manifest"])
    yield Answer(
        prepare(
            request.workdir,
            manifest,
            worker_config=bundle["worker_config"],
            rank_table=bundle["rank_table"],
        )
    )


def _tell(verb: str) -> Callable[[Request], Iterator[Answer]]:
    def answer(request: Request) -> Iterator[Answer]:
        yield Answer(runs.tell(request.run(), {"verb": verb, **request.args}))

    return answer


def _undo(request: Request) -> Iterator[Answer]:
    """Take a launch back; a run that is not there is as undone as can be."""
    run = request.workdir.run(request.args["run_id"])
    if runs.is_run_id(request.args["run_id"]) and run.root.exists():
        runs.end_and_wait(run, {"verb": "undo"}, timeout=10.0)
        # The supervisor removes its run itself, unless it had ended before it was told.
        shutil.rmtree(run.root, ignore_errors=True)
    yield Answer()


def _status(request: Request) -> Iterator[Answer]:
    yield Answer(runs.status(request.run()).to_json())


def _list_runs(request: Request) -> Iterator[Answer]:
    yield Answer(runs.list_runs(request.workdir, request.args.get("run_id", "")))


def _read_log(request: Request) -> Iterator[Answer]:
    found = runs.read_log(request.run(), request.args["label"], request.args["offset"], request.args["limit"])
    data = found.pop("data")
    yield Answer(found, data)


def _shards(request: Request) -> Iterator[Answer]:
    # Late: each host compiles the agent at every session, and only collect-ckpt needs this part of it.
    from orchestrator.agent import ckpt_read

    yield Answer(ckpt_read.list_shards(str(request.run().checkpoint)))


def _index(request: Request) -> Iterator[Answer]:
    from orchestrator.agent import ckpt_read  # late, as above

    yield Answer([ckpt_read.index_shard(path) for path in request.args["paths"]])


def _read_segments(request: Request) -> Iterator[Answer]:
    """An answer with the bytes of each segment and their crc32, then one without."""
    from orchestrator.agent import ckpt_read  # late, as above

    args = request.args
    for data in ckpt_read.read_segments(args["segments"], args["identities"]):
        yield Answer(zlib.crc32(data), data, more=True)
    yield Answer()


def _small_files(request: Request) -> Iterator[Answer]:
    """Every file of one of the run's folders, an answer each: strategies, or what belongs to the model."""
    for name, data in runs.small_files(request.run(), request.args["folder"]):
        yield Answer(name, data, more=True)
    yield Answer()


def _chat(request: Request) -> Iterator[Answer]:
    """What the chat's worker says, an answer a piece, then one without."""
    from orchestrator.agent import chat  # late, as above

    question = json.loads(request.payload.read())
    for event in chat.converse(request.run().chat_socket, question):
        yield Answer(event, more=True)
    yield Answer()


VERBS: Dict[str, Callable[[Request], Iterator[Answer]]] = {
    "clock": _clock,
    "probe": _probe,
    "ask_tools": _ask_tools,
    "busy_devices": _busy_devices,
    "missing": _missing,
    "push": _push,
    "put_file": _put_file,
    "prepare": _prepare,
    "start": _tell("start"),
    "commit": _tell("commit"),
    "stop": _tell("stop"),
    "undo": _undo,
    "status": _status,
    "list_runs": _list_runs,
    "read_log": _read_log,
    "shards": _shards,
    "index": _index,
    "read_segments": _read_segments,
    "small_files": _small_files,
    "chat": _chat,
}
