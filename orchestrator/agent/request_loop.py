"""The agent's side of a session: the table of all verbs, and the loop that answers requests for them.

Requests come in on stdin, answers go out on stdout, in order, in the frames of `core.protocol`. The session
ends with stdin. Between requests, and between the answers to one, the events of a run that is watched are
passed on. A verb's module is imported when the first of its verbs is asked for: on hundreds of hosts,
what the other verbs need would be most of the time that an agent takes to start. For the same reason the
classes here are plain ones: `dataclasses` would be a tenth of it.
"""

from __future__ import annotations

import errno
import os
import sys
from _signal import alarm  # type: ignore[import-not-found]  # `signal` imports `enum`, which takes long

from orchestrator.core.errors import AgentError, CheckpointError
from orchestrator.core.protocol import SILENCE_SECONDS, ProtocolError, Receiver, frame

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, Mapping, Optional, Union

    from orchestrator.agent.run_watch import RunWatch

__all__ = [
    "Answer",
    "Request",
    "find_verb",
    "serve",
]

_VERBS = {
    "verbs_chaos": ("inject",),
    "verbs_copies": ("copy_addresses", "copy_close", "copy_listen", "copy_reach"),
    "verbs_data": (
        "missing",
        "push",
        "put_file",
    ),
    "verbs_evidence": ("evidence",),
    "verbs_host": (
        "addresses",
        "ask_tools",
        "busy_devices",
        "clock",
        "probe",
        "require_port",
    ),
    "verbs_disk": (
        "disk_use",
        "remove_run",
        "sweep_store",
    ),
    "verbs_logs": (
        "chat",
        "list_plogs",
        "read_log",
        "read_plog",
        "small_files",
    ),
    "verbs_run": (
        "bury",
        "claim",
        "commit",
        "list_runs",
        "prepare",
        "release",
        "renew",
        "start",
        "status",
        "stop",
        "undo",
    ),
    "verbs_shards": (
        "check_shard",
        "check_shards",
        "index",
        "iterations",
        "place_shards",
        "read_segments",
        "saved",
        "shards",
        "sum_segments",
        "tell_step",
    ),
    "verbs_spare": (
        "spare_hold",
        "spare_release",
        "spare_renew",
        "spare_status",
    ),
    "verbs_stacks": ("stacks",),
    "run_watch": ("watch",),
}
_BLOCK = 1 << 16
_MODULES: Dict[str, str] = {verb: module for module, verbs in _VERBS.items() for verb in verbs}


def find_verb(name: str) -> Callable[[Request], Iterator[Answer]]:
    """The function that answers this verb. Raises AgentError for one that is not in the table."""
    if name not in _MODULES:
        raise AgentError(f"the agent knows no verb `{name}`", kind="unknown_verb")
    module = __import__(f"orchestrator.agent.{_MODULES[name]}", fromlist=[name])
    found: Callable[[Request], Iterator[Answer]] = getattr(module, name)
    return found


class Request:
    """One request: the host's workdir, what is asked, and the bytes that came with it, as a file."""

    __slots__ = ("args", "payload", "root")

    def __init__(self, root: str, args: Mapping[str, Any], payload: Any) -> None:
        self.root = root
        self.args = args
        self.payload = payload


class Answer:
    """One answer and the bytes behind it; `more` says that another one follows.

    `watch` is what the session passes on from now on, in the place of what it did before.
    """

    __slots__ = ("data", "error", "more", "result", "watch")

    def __init__(
        self,
        result: Any = None,
        data: Union[bytes, memoryview] = b"",
        more: bool = False,
        error: Any = None,
        watch: Optional[RunWatch] = None,
    ) -> None:
        self.watch = watch
        self.result = result
        self.data = data
        self.more = more
        self.error = error

    @classmethod
    def refusal(cls, what: str, remedy: str, kind: str) -> Answer:
        return cls(error={"what": what, "remedy": remedy, "kind": kind})

    def header(self) -> Dict[str, Any]:
        if self.error is not None:
            return {"ok": False, "error": self.error}
        return {"ok": True, "result": self.result, "bytes": len(self.data), "more": self.more}


_REMEDIES = {
    errno.ENOSPC: "free space there, or choose another workdir",
    errno.EDQUOT: "free space there, or choose another workdir",
    errno.EACCES: "give the account write access, or choose another workdir",
    errno.EPERM: "give the account write access, or choose another workdir",
    errno.EROFS: "choose a workdir that can be written to",
    errno.ENOENT: "",
}


def main(workdir: str) -> None:
    """Serve on this process's stdin and stdout; nothing else may write to the latter."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # A connection may die without a word, and sshd keeps its end for hours: SIGALRM ends the process then.
    serve(workdir, _Stdin(), out, alarm)


def _no_alarm(seconds: int) -> object:
    return None


def serve(workdir: str, stdin: Any, stdout: BinaryIO, set_alarm: Callable[[int], object] = _no_alarm) -> None:
    """Answer requests until stdin ends or the peer is gone.

    `set_alarm` is called with the seconds after which this process is to end, whenever it waits for the
    peer, and with 0 when it has heard it.
    """
    receiver, watch = Receiver(), None
    try:
        while True:
            set_alarm(SILENCE_SECONDS)
            request = _next(receiver, stdin, stdout, watch)
            set_alarm(0)
            if request is None:
                return
            if "beat" in request:
                continue
            payload = _Payload(stdin, receiver, set_alarm)
            name = {"id": request["id"]} if "id" in request else {}
            for answer in _answers(workdir, request, payload):
                if answer.watch is not None:
                    watch = _replace(watch, answer.watch)
                stdout.write(frame({**name, **answer.header()}))
                if answer.data:
                    stdout.write(answer.data)
                stdout.flush()
                if watch is not None and answer.more:
                    _pass_on(watch.news(), stdout)
            payload.drain()
            if receiver.left:
                return  # the peer went in the middle of its request
    except BrokenPipeError:
        return
    finally:
        _replace(watch, None)


def _replace(old: Optional[RunWatch], new: Optional[RunWatch]) -> Optional[RunWatch]:
    if old is not None:
        old.close()
    return new


def _pass_on(frames: Iterable[bytes], stdout: BinaryIO) -> None:
    for data in frames:
        stdout.write(data)
        stdout.flush()


def _next(
    receiver: Receiver, stdin: Any, stdout: BinaryIO, watch: Optional[RunWatch]
) -> Optional[Dict[str, Any]]:
    """The next request; None where there will be none."""
    try:
        request = receiver.header()
        while request is None:
            if watch is not None:
                _pass_on(watch.relay(stdin.fileno()), stdout)
            data = stdin.read1(_BLOCK)
            if not data:
                return None
            receiver.feed(data)
            request = receiver.header()
    except ProtocolError as error:
        raise SystemExit(f"not a request: {error}") from None
    return request


def _answers(workdir: str, request: Dict[str, Any], payload: _Payload) -> Iterator[Answer]:
    verb = str(request.get("verb"))
    try:
        yield from find_verb(verb)(Request(workdir, request.get("args", {}), payload))
    except AgentError as error:
        yield Answer.refusal(error.what, error.remedy, error.kind)
    except CheckpointError as error:
        yield Answer.refusal(str(error), "", "checkpoint")
    except BrokenPipeError:
        raise
    except OSError as error:
        # Writing to an open file fails without its name; all that is written here is in the workdir.
        where = error.filename or (os.path.expanduser(workdir) if error.errno in _REMEDIES else "")
        what = f"{where}: {error.strerror}" if where else str(error.strerror or error)
        yield Answer.refusal(what, _REMEDIES.get(error.errno or 0, ""), "os_error")
    except Exception as error:
        # A bug of ours or a request that makes no sense: the session goes on, the traceback is on stderr.
        sys.excepthook(*sys.exc_info())  # and without importing `traceback`
        yield Answer.refusal(f"`{verb}` failed: {type(error).__name__}: {error}", "", "internal")


class _Stdin:
    """This process's stdin without a buffer: what has come and was not read can be waited for."""

    def fileno(self) -> int:
        return 0

    def read1(self, size: int) -> bytes:
        return os.read(0, size)

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        first = os.read(0, size)
        if len(first) in (0, size):
            return first
        data = bytearray(first)
        while len(data) < size:
            more = os.read(0, size - len(data))
            if not more:
                break
            data += more
        return bytes(data)


class _Payload:
    """The raw bytes behind a request, as a file; what a verb leaves unread is read away."""

    def __init__(
        self, stream: Any, receiver: Receiver, set_alarm: Callable[[int], object] = _no_alarm
    ) -> None:
        self._stream = stream
        self._receiver = receiver
        self._set_alarm = set_alarm

    def read(self, size: int = -1) -> bytes:
        wanted = self._receiver.left if size < 0 else min(size, self._receiver.left)
        data = self._receiver.take(wanted)
        if len(data) < wanted:
            self._set_alarm(SILENCE_SECONDS)
            more = self._stream.read(wanted - len(data))
            self._set_alarm(0)
            self._receiver.took(len(more))
            data += more
        return data

    def drain(self) -> None:
        while self._receiver.left and self.read(1 << 20):
            pass
