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
import errno
import os
import re
from pathlib import Path

TYPE_CHECKING = False  # without `typing` the agent starts a tenth faster
if TYPE_CHECKING:
    from typing import BinaryIO, Iterable, Iterator, List, Mapping, Optional

__all__ = [
    "RUN_YAML",
    "AttemptDir",
    "ControlDir",
    "RunDir",
    "Workdir",
    "atomic_write",
    "leads_to",
    "replacing",
    "state_root",
]

_CURRENT = "current"
RUN_YAML = "mindformers.yaml"  # of `task: mindformers`, for each attempt
_TOKEN = "token"  # the name of a file in the folder of an attempt
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
        # A folder for each run whose spare this host is, of its holder.
        self.spares = self.root / "spares"

    def run(self, run_id: str) -> RunDir:
        return RunDir(self.runs / run_id)


class _Attempts:
    """The directory of a run, here or on a host, as far as it is about attempts.

    `pinned` is the attempt that is meant where it need not be the one in force.
    """

    def __init__(self, root: Path, pinned: Optional[int] = None) -> None:
        self.root = root
        # The folder that the run is in: from here on nothing of another user is followed.
        self.runs = root.parent
        self.attempts = root / "attempts"
        self._pinned = pinned

    @property
    def in_force(self) -> Optional[int]:
        """The number of the attempt in force; None in a run of an older version."""
        with contextlib.suppress(OSError):
            name = os.readlink(self.attempts / _CURRENT)
            return int(name) if _NUMBER.fullmatch(name) else None
        return None

    @property
    def number(self) -> Optional[int]:
        """The number of the attempt that is meant: that in force, or the pinned one."""
        return self.in_force if self._pinned is None else self._pinned

    @property
    def home(self) -> Path:
        """The folder of that attempt."""
        return self.root if self.number is None else self.folder_of(self.number)

    def folder_of(self, number: int) -> Path:
        return self.attempts / str(number)

    def token_of(self, number: int) -> Optional[str]:
        """The token of an attempt that is there; None where it is not known."""
        try:
            return (self.folder_of(number) / _TOKEN).read_text()
        except (OSError, ValueError):
            return None

    def is_of(self, number: Optional[int], token: str) -> bool:
        """Whether the attempt of this number is that of this token, as far as both are known."""
        known = None if number is None else self.token_of(number)
        return not (known and token) or known == token

    def put_in_force(self, number: int) -> None:
        """From now on the run's links lead to this attempt, all at once."""
        new = self.attempts / f".{_CURRENT}"
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        os.symlink(str(number), new)
        os.replace(new, self.attempts / _CURRENT)

    def discard(self, number: Optional[int], token: str = "") -> bool:
        """Remove the newest attempt, so that the one before is in force; if there is none, the run.

        Nothing is done where that attempt is another one: of another number, or another token.
        """
        import shutil  # late: an agent that starts a run removes none

        numbers = self.numbers()
        if numbers and (numbers[-1] != number or not self.is_of(number, token)):
            return False
        if not numbers and (number or 1) > 1 and (self.root / "manifest.json").exists():
            return False  # a run of an older version, which is its own first attempt
        if numbers[:-1]:
            self._give_back(numbers[-1], numbers[-2])
            self.put_in_force(numbers[-2])
            shutil.rmtree(self.folder_of(numbers[-1]), ignore_errors=True)
        else:
            shutil.rmtree(self.root, ignore_errors=True)
        return True

    def numbers(self) -> List[int]:
        """The numbers of the attempts that are there, in their order."""
        with contextlib.suppress(OSError):
            return sorted(int(name) for name in os.listdir(self.attempts) if _NUMBER.fullmatch(name))
        return []

    def _give_back(self, number: int, before: int) -> None:
        """Attempt `number` is going to be removed, and the one before in force again."""


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
        self.run_yaml = root / RUN_YAML

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
            leads_here = os.readlink(own) == leads_to(name)
        except FileNotFoundError:
            leads_here = True
        except OSError:
            leads_here = False
        return self.root / name if leads_here else own


class RunDir(_Attempts):
    """One run on one host."""

    def __init__(self, root: Path, pinned: Optional[int] = None) -> None:
        super().__init__(root, pinned)
        # Of the attempt in force; that of one before is kept in its folder.
        self.status = root / "status.json"
        self.events = root / "events.jsonl"
        self.claim = root / "claim.json"
        self.tombstone = root / "tombstone.json"
        self.control_socket = root / "control.sock"
        # Where the first worker of a chat job listens.
        self.chat_socket = root / "chat.sock"
        # With attempts a link to `supervisor.log` in the run's directory: the supervisor outlives them.
        self.supervisor_log = root / "logs" / "supervisor.log"

    @property
    def attempt(self) -> AttemptDir:
        """The attempt that is meant."""
        is_in_force = self._pinned is None or self._pinned == self.in_force
        return AttemptDir(self.home, self.root if is_in_force else None)

    def pinned(self, number: int) -> RunDir:
        """The same run, of which this attempt is meant. A run of an older version has only its first."""
        return RunDir(self.root, number if self.in_force is not None else None)

    def kept_status(self, number: int) -> Path:
        """The last status of an attempt that is in force no more."""
        return self.folder_of(number) / self.status.name

    def make(
        self,
        number: int = 1,
        token: str = "",
        *,
        answers: bool = False,
        rank_table: bool = False,
        files: Optional[Mapping[str, str]] = None,
    ) -> AttemptDir:
        """Make the tree of an attempt, with the first one on a host that of the run, and put it in force.

        It is there with all of its `files`, or not at all. What the attempt before has in the directory of
        the run, its status above all, is kept in the folder of that one. Raises FileExistsError where the
        attempt is already there, or, for number 1, the run.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        if number == 1:
            self.root.mkdir(mode=0o700)
        else:
            with contextlib.suppress(FileExistsError):
                self.root.mkdir(mode=0o700)
        for folder in (self.root / "inputs", self.attempts):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
        folders = (*AttemptDir.FOLDERS, *["answers"] * answers)
        self._build(number, {_TOKEN: token, **(files or {})}, folders)
        before = self.in_force
        if before is not None:
            from orchestrator.core.attempt_files import keep  # late: few runs have a second attempt

            keep(self, before)
        self.put_in_force(number)
        for name in (*folders, "manifest.json", "worker.yaml", *["rank_table.json"] * rank_table):
            with contextlib.suppress(FileExistsError):  # of the attempt before, or a program's own
                os.symlink(leads_to(name), self.root / name)
        return AttemptDir(self.folder_of(number), self.root)

    def _build(self, number: int, files: Mapping[str, str], folders: Iterable[str]) -> None:
        """Make the folder of an attempt beside its place, then move it there."""
        new = self.attempts / f".{number}.{os.urandom(8).hex()}"
        new.mkdir()
        try:
            for name in folders:
                (new / name).mkdir()
            os.symlink("../../../supervisor.log", new / "logs" / "supervisor.log")
            for name, text in files.items():
                atomic_write(new / name, text)
            os.rename(new, self.folder_of(number))
        except BaseException as error:
            import shutil  # late: an agent that starts a run removes none

            shutil.rmtree(new, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise FileExistsError(errno.EEXIST, "it exists", str(self.folder_of(number))) from None
            raise

    def _give_back(self, number: int, before: int) -> None:
        from orchestrator.core.attempt_files import give_back  # late: few runs have a second attempt

        give_back(self, number, before)


def leads_to(name: str) -> str:
    """Where a link of that name in a run's directory leads."""
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

    def plan_of(self, number: int) -> Path:
        """The plan of an attempt; a run of an older version has only its first."""
        return self.plan if self.in_force is None else self.folder_of(number) / "plan.json"

    def kept_record(self, number: int) -> Path:
        """The record as it was when an attempt was over and another one was to take its place."""
        return self.folder_of(number) / "record.json"

    def make(self, number: int = 1) -> None:
        """Make the directories of an attempt, as far as they are not there, and put it in force."""
        self.runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root.mkdir(mode=0o700, exist_ok=True)
        self.folder_of(number).mkdir(parents=True, exist_ok=True)
        self.put_in_force(number)
