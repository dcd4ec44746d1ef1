"""A conversation with one host's agent: one channel, one interpreter, many requests."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from orchestrator.core.errors import AgentError, OrchestrateError, PreflightError, TransportError
from orchestrator.hosts.boot import BOOT, Bundle
from orchestrator.hosts.transport import Channel, Transport

__all__ = ["Payload", "Session"]

_Data = TypeVar("_Data")
_MAGIC = "orchestrate-agent"
_PROTOCOL_NOISE_LIMIT = 200  # lines a chatty shell start-up file may print before us


class _Stream(Protocol):
    """Bytes that are not in memory all at once; the length is known."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[bytes | memoryview]: ...


Payload = bytes | _Stream


class Session:
    """One agent on one host; usable from several threads, one request at a time."""

    def __init__(
        self, transport: Transport, *, python: str, workdir: str, bundle: Bundle, timeout: float = 60.0
    ) -> None:
        self.host = transport.host
        self._lock = threading.Lock()
        self._timeout = timeout
        # Isolated and without site: nothing of the account's own set-up can break the agent or slow it down.
        self._channel = transport.open([python, "-I", "-S", "-c", BOOT])
        self._channel.timeout = timeout
        try:
            self._start(self._channel, python, workdir, bundle)
        except BaseException:
            self._channel.close()
            raise

    def call(self, verb: str, *, payload: Payload = b"", timeout: float | None = None, **args: Any) -> Any:
        """One request, one answer. AgentError where the agent refuses, TransportError where it is gone."""
        return self.call_with_data(verb, payload=payload, timeout=timeout, **args)[0]

    def call_with_data(
        self, verb: str, *, payload: Payload = b"", timeout: float | None = None, **args: Any
    ) -> tuple[Any, bytes]:
        """As `call`, with the raw bytes that came behind the answer."""
        answers = list(self.stream(verb, payload=payload, timeout=timeout, **args))
        return answers[-1]

    def stream(
        self, verb: str, *, payload: Payload = b"", timeout: float | None = None, **args: Any
    ) -> Iterator[tuple[Any, bytes]]:
        """One request, its answers as they come. Leaving them, or a broken connection, closes the session."""
        return self._stream(verb, args, self._channel.read_exactly, payload=payload, timeout=timeout)

    def stream_into(
        self, buffer: memoryview, verb: str, *, timeout: float | None = None, **args: Any
    ) -> Iterator[tuple[Any, memoryview]]:
        """As `stream`, with the bytes of each answer in `buffer`, where the next one overwrites them."""

        def fill(size: int) -> memoryview:
            if size > len(buffer):
                raise TransportError(f"the agent sent {size} bytes where {len(buffer)} fit", where=self.host)
            self._channel.read_into(buffer[:size])
            return buffer[:size]

        return self._stream(verb, args, fill, timeout=timeout)

    def _stream(
        self,
        verb: str,
        args: Mapping[str, Any],
        read: Callable[[int], _Data],
        *,
        payload: Payload = b"",
        timeout: float | None = None,
    ) -> Iterator[tuple[Any, _Data]]:
        header = json.dumps({"verb": verb, "args": args, "bytes": len(payload)}).encode() + b"\n"
        with self._lock:
            self._channel.timeout = timeout or self._timeout
            in_step = False
            try:
                self._send(header, payload)
                while not in_step:
                    answer = self._answer()
                    if not answer["ok"]:
                        in_step = True
                        raise self._refusal(answer["error"])
                    data = read(answer["bytes"])
                    in_step = not answer["more"]
                    yield answer["result"], data
            finally:
                # Answers that nobody took would be taken for those of the next request.
                if not in_step:
                    self._channel.close()

    def _send(self, header: bytes, payload: Payload) -> None:
        if not isinstance(payload, bytes):
            self._channel.write(header)
            for chunk in payload:
                self._channel.write(chunk)
        elif len(payload) < 65536:
            # One packet instead of two.
            self._channel.write(header + payload)
        else:
            self._channel.write(header)
            self._channel.write(payload)

    def _answer(self) -> dict[str, Any]:
        line = self._channel.read_line(limit=1 << 26)
        try:
            answer = json.loads(line)
            if answer["ok"] in (True, False):
                return dict(answer)
        except (ValueError, KeyError, TypeError):
            pass
        said = self._channel.stderr_tail().splitlines()[-1:] or [repr(line[:80])]
        what = "sent something that is no answer" if line else "has ended"
        raise TransportError(f"the agent {what}: {said[0]}", where=self.host)

    def _refusal(self, error: dict[str, str]) -> AgentError:
        return AgentError(error["what"], where=self.host, remedy=error["remedy"], kind=error["kind"])

    def close(self) -> None:
        self._channel.close()

    def _start(self, channel: Channel, python: str, workdir: str, bundle: Bundle) -> None:
        ask = {"workdir": workdir, "sha256": bundle.sha256, "size": len(bundle.data)}
        with contextlib.suppress(TransportError):  # it ended at once: its words or exit code tell why
            channel.write(json.dumps(ask).encode() + b"\n")
        word, rest = self._listen(channel, python)
        if word == "need":
            channel.write(bundle.data)
            word, rest = self._listen(channel, python)
        if word == "old":
            raise PreflightError(
                f"Python {rest} is too old for the agent",
                where=self.host,
                remedy="set `python:` of this host to 3.8 or newer",
            )
        if word == "error":
            raise PreflightError(
                f"cannot use the workdir: {json.loads(rest)}",
                where=self.host,
                remedy="free space or give write access there, or set another `workdir:`",
            )

    def _listen(self, channel: Channel, python: str) -> tuple[str, str]:
        for _ in range(_PROTOCOL_NOISE_LIMIT):
            line = channel.read_line().decode("utf-8", "replace")
            # Anywhere in the line: the noise before it need not end in a newline.
            _, magic, words = line.partition(_MAGIC + " ")
            if magic:
                word, _, rest = words.strip().partition(" ")
                return word, rest
            if not line:
                raise self._no_agent(channel, python)
        raise PreflightError(
            f"the account's shell prints more than {_PROTOCOL_NOISE_LIMIT} lines before the agent can speak",
            where=self.host,
            remedy="have its start-up files print to interactive shells only",
        )

    def _no_agent(self, channel: Channel, python: str) -> OrchestrateError:
        code = channel.wait(self._timeout)
        if code in (126, 127):
            return PreflightError(
                f"no Python at `{python}`", where=self.host, remedy="set `python:` of this host"
            )
        said = channel.stderr_tail().splitlines()[-1:] or [f"exit code {code}"]
        return PreflightError(
            f"the agent did not start: {said[0]}", where=self.host, remedy=f"try `{python} -V` on the host"
        )
