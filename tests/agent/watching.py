"""An agent in a process of its own, its frames read as they come: for tests of what it says unasked."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from orchestrator.core.codec import from_json, to_json
from orchestrator.core.push import Beat, Change, Digest, Mark, Snapshot

__all__ = ["Watching"]

_PROGRAM = "import sys; from orchestrator.agent.request_loop import main; main(sys.argv[1])"
_KINDS: dict[str, Any] = {kind.EVENT: kind for kind in (Snapshot, Change, Digest, Beat)}


class Watching:
    """A session that watches a run. Each event is checked as it comes; `times` are when."""

    def __init__(self, workdir: Path, program: str = _PROGRAM) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(workdir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._answers: queue.Queue[Any] = queue.Queue()
        self._events: queue.Queue[Any] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            frame = json.loads(line)
            if "event" not in frame:
                self._answers.put(frame)
            else:
                kind = _KINDS.get(frame["event"])
                self._events.put(from_json(kind, frame["data"]) if kind else frame)

    def ask(self, verb: str, **args: Any) -> Any:
        """The answer to a request, or what is wrong with it."""
        assert self.process.stdin is not None
        self.process.stdin.write(
            json.dumps({"id": 1, "verb": verb, "args": args, "bytes": 0}).encode() + b"\n"
        )
        self.process.stdin.flush()
        answer = self._answers.get(timeout=60)
        return answer["result"] if answer["ok"] else answer["error"]

    def watch(self, run_id: str, since: Mark | None = None, every: float = 0.2, beat: float = 5.0) -> Any:
        return self.ask("watch", run_id=run_id, since=to_json(since), every=every, beat=beat)

    def next(self, timeout: float = 60.0) -> Any:
        """The next event."""
        return self._events.get(timeout=timeout)

    def until(self, is_meant: Any, timeout: float = 60.0) -> list[Any]:
        """Events up to the first of which this is true."""
        found, deadline = [], time.monotonic() + timeout
        while True:
            found.append(self.next(max(0.01, deadline - time.monotonic())))
            if is_meant(found[-1]):
                return found

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self._reader.join(60)
        self.process.stdout.close()
