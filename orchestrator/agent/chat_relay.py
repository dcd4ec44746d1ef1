"""The line between a session and a chat job's first worker: a Unix socket in the run's directory.

The worker listens on `chat.sock`. A client sends one line of JSON,

    {"messages": [{"role": "user", "content": …}, …]}

and gets lines back: `{"text": …}` for each piece of the answer, then `{"done": true, "tokens": n,
"seconds": s}` or `{"error": …}`. A client that hangs up has had enough: the worker ends the answer.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any, Dict, Iterator

from orchestrator.agent import control_socket as control
from orchestrator.core.errors import AgentError

__all__ = ["converse"]

_LONGEST_WAIT = 600.0


def converse(path: Path, request: Dict[str, Any], timeout: float = _LONGEST_WAIT) -> Iterator[Dict[str, Any]]:
    """What the worker says to one request, as it says it; the last has `done` or `error`.

    Raises AgentError, kind `not_listening`, where nobody listens, as while the model is loaded; kind
    `no_chat` where the worker ends before its answer does.
    """
    with _connect(path, timeout) as connection:
        try:
            control.reply(connection, request)
            with connection.makefile("rb") as lines:
                for line in lines:
                    event = json.loads(line)
                    yield event
                    if "done" in event or "error" in event:
                        return
        except (OSError, ValueError) as error:
            raise AgentError(f"the chat broke off: {error}", kind="no_chat") from error
    raise AgentError("the worker ended in the middle of its answer", kind="no_chat")


def _connect(path: Path, timeout: float) -> socket.socket:
    try:
        return control.connect(path, timeout)
    except OSError as error:
        remedy = "its model may still be loading: see `orchestrate logs`"
        raise AgentError(
            f"nobody answers on this run: {error.strerror}", remedy=remedy, kind="not_listening"
        ) from error
