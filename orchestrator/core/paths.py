"""Every path that the project uses, on a host and on the control node, and the way files are replaced.

A run is a sequence of attempts, and what one attempt wrote is in a folder of its own, here and on the hosts:

    runs/<run_id>/attempts/<n>/…          n from 1
    runs/<run_id>/attempts/current        leads to the attempt in force
    runs/<run_id>/logs, checkpoint, …     on hosts, lead to what the attempt in force has of that name

The links are relative and ours. A run of an older version has no attempts: all is in its own directory, which
is then the folder of its one attempt.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import BinaryIO, Iterator, List, Optional

__all__ = ["AttemptDir", "ControlDir", "RunDir", "Workdir", "atomic_write", "replacing", "state_root"]

_CURRENT = "current"
# As `tempfile` does, whose import is much of an agent's start: `random`, and by `shutil` four compressions.
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` if the block ends well and vanishes if not.

    So a reader sees the old bytes or the new ones, never a part. A link at `path` is itself replaced.
    """
    temporary = str(path.parent / f".{path.name}.{os.urandom(8).hex()}")
    handle = os.open(temporary, _NEW, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink()
        raise


def atomic_write(path: Path, data: bytes | str, mode: int = 0o600) -> None:
    """Replace `path` so that a reader sees the old bytes or the new ones, never a part."""
    with replacing(path, mode) as file:
        file.write(data.encode() if isinstance(data, str) else data)


class Workdir:
    """What the orchestrator keeps on one host."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(os.path.expanduser(str(root))).absolute()
        self.runs = self.root / "runs"
        self.locks = self.root / "locks"
        # Code and input files, each under the SHA-256 of its content.
        self.store = self.root / "store"

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.runs / run_id)


class _Attempts:
    """The directory of a run, here or on a host, as far as it is about attempts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # The folder that the run is in: from here on nothing of another user is followed.
        self.runs = root.parent
        self.attempts = root / "attempts"

    @property
    def number(self) -> Optional[int]:
        """The number of the attempt in force; None in a run of an older version."""
        with contextlib.suppress(OSError):
            name = os.readlink(self.attempts / _CURRENT)
            return int(name) if _NUMBER.fullmatch(name) else None
        return None

    @property
    def home(self) -> Path:
        """The folder of the attempt in force."""
        return self.root if self.number is None else self.attempts / str(self.number)

    def put_in_force(self, number: int) -> None:
        """From now on the run's links lead to this attempt, all at once."""
        new = self.attempts / f".{_CURRENT}"
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        os.symlink(str(number), new)
        os.replace(new, self.attempts / _CURRENT)

    def discard(self, number: Optional[int]) -> None:
        """Remove an attempt, so that the newest of the others is in force; if there is none, the run."""
        import shutil  # late: an agent that starts a run removes none

        others = [other for other in self._numbers() if other != number]
        if others:
            self.put_in_force(others[-1])
        shutil.rmtree(self.attempts / str(number) if others else self.root, ignore_errors=True)

    def _numbers(self) -> List[int]:
        with contextlib.suppress(OSError):
            return sorted(int(name) for name in os.listdir(self.attempts) if _NUMBER.fullmatch(name))
        return []


class AttemptDir:
    """What one attempt of a run reads and writes on a host.

    `run` is the run's own directory. Where a program has put a folder of its own in the place of one of our
    links there, it writes into that, and that is what counts.
    """

    FOLDERS = ("logs", "metrics", "strategy", "checkpoint", "model", "done")

    def __init__(self, root: Path, run: Optional[Path] = None) -> None:
        self.root = root
        self._run = run or root
        self.manifest = root / "manifest.json"
        self.rank_table = root / "rank_table.json"
        self.worker_config = root / "worker.yaml"

    @property
    def model(self) -> Path:
        """What is needed beside the weights: the model's configuration and the tokenizer."""
        return self.folder("model")

    @property
    def checkpoint(self) -> Path:
        return self.folder("checkpoint")

    @property
    def strategy(self) -> Path:
        return self.folder("strategy")

    @property
    def plogs(self) -> Path:
        """CANN's own logs, a folder for each worker and the scheduler."""
        return self.folder("logs") / "plog"

    def log(self, label: str) -> Path:
        """A worker's output; `label` is `rank_<r>` or `scheduler`."""
        return self.folder("logs") / f"{label}.log"

    def metrics(self, rank: int) -> Path:
        return self.folder("metrics") / f"rank_{rank}.jsonl"

    def done(self, label: str) -> Path:
        """Made by a worker whose work is done: how its process then ends is no matter of the run."""
        return self.folder("done") / label

    def folder(self, name: str) -> Path:
        """Where this attempt has its folder of that name."""
        own = self._run / name
        try:
            leads_here = os.readlink(own) == _leads_to(name)
        except FileNotFoundError:
            leads_here = True
        except OSError:
            leads_here = False
        return self.root / name if leads_here else own


class RunDir(_Attempts):
    """One run on one host."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.status = root / "status.json"
        self.events = root / "events.jsonl"
        self.control_socket = root / "control.sock"
        # Where the first worker of a chat job listens.
        self.chat_socket = root / "chat.sock"
        # With attempts a link to `supervisor.log` in the run's directory: the supervisor outlives them.
        self.supervisor_log = root / "logs" / "supervisor.log"

    @property
    def attempt(self) -> AttemptDir:
        """The attempt in force."""
        return AttemptDir(self.home, self.root)

    def make(self, number: int = 1, *, answers: bool = False, rank_table: bool = False) -> AttemptDir:
        """Make the tree of an attempt, with the first one that of the run, and put it in force.

        Raises FileExistsError where the run, or the attempt, is already there.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        if number == 1:
            self.root.mkdir(mode=0o700)
            (self.root / "inputs").mkdir()
            self.attempts.mkdir()
        attempt = AttemptDir(self.attempts / str(number), self.root)
        attempt.root.mkdir()
        folders = (*AttemptDir.FOLDERS, *["answers"] * answers)
        for name in folders:
            (attempt.root / name).mkdir()
        os.symlink("../../../supervisor.log", attempt.root / "logs" / "supervisor.log")
        self.put_in_force(number)
        for name in (*folders, "manifest.json", "worker.yaml", *["rank_table.json"] * rank_table):
            with contextlib.suppress(FileExistsError):  # of the attempt before, or a program's own
                os.symlink(_leads_to(name), self.root / name)
        return attempt


def _leads_to(name: str) -> str:
    return f"attempts/{_CURRENT}/{name}"


def state_root() -> Path:
    """`$XDG_STATE_HOME/orchestrate`, by default `~/.local/state/orchestrate`."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "orchestrate"


class ControlDir(_Attempts):
    """One run on the control node: the plan of each attempt as launched, and what the monitor knows."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.run_id = root.name
        self.record = root / "record.json"
        # What has changed since.
        self.journal = root / "record.journal"
        self.monitor_log = root / "monitor.log"
        # Where all ranks were in their programs when none of them made steps any more, at the last.
        self.hang_stacks = root / "hang_stacks.txt"
        # Held with flock by the run's monitor while it lives.
        self.monitor_lock = root / "monitor.lock"
        # On which machine that is, and where it listens there.
        self.monitor_note = root / "monitor.json"
        self.monitor_socket = root / "monitor.sock"

    @property
    def plan(self) -> Path:
        """Of the attempt in force."""
        return self.home / "plan.json"

    def make(self, number: int = 1) -> None:
        """Make the directories of an attempt, as far as they are not there, and put it in force."""
        self.runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.mkdir(mode=0o700, exist_ok=True)
        (self.attempts / str(number)).mkdir(parents=True, exist_ok=True)
        self.put_in_force(number)
