"""What a host's agent answers, verb by verb: the frozen dataclasses that an answer is checked against.

The texts and numbers in them have types of their own, which refuse what they cannot be: a file's name leads
nowhere else, a size is not negative. `core.codec` makes them of JSON.
This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import re
from typing import ClassVar, Mapping, Optional, Pattern, Tuple, Type, TypeVar

from orchestrator.core.container_records import ImageFacts
from orchestrator.core.record_class import dataclass, field

__all__ = [
    "Addresses",
    "CannCompiler",
    "CannFacts",
    "ChatEvent",
    "CopyListener",
    "DiskUse",
    "FileName",
    "Injected",
    "Label",
    "LogPart",
    "MindSporeAsks",
    "PlogFile",
    "PlogList",
    "PlogPath",
    "Prepared",
    "Probe",
    "PutFile",
    "RankStacks",
    "RunId",
    "RunUse",
    "Sha256",
    "ShardCheck",
    "ShardName",
    "ShardRow",
    "Size",
    "StacksAnswer",
    "TensorEntry",
    "Told",
    "ToolText",
    "ToolTexts",
]


T = TypeVar("T", bound="_Text")


class _Text(str):
    """A text of a known form."""

    FORM: ClassVar[Pattern[str]]
    IS: ClassVar[str]

    def __new__(cls: Type[T], text: str) -> T:
        if not cls.FORM.fullmatch(text):
            raise ValueError(f"expected {cls.IS}, got {text[:60]!a}")
        return super().__new__(cls, text)


class FileName(_Text):
    """The name of a file, and of nothing but a file: no path, no option, not hidden."""

    FORM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}", re.ASCII)
    IS = "a plain file name"


class RunId(FileName):
    """The name of a run, which is that of its folders."""

    IS = "the name of a run"


class Label(_Text):
    """A worker's: `rank_<r>` or `scheduler`."""

    FORM = re.compile(r"rank_\d{1,7}|scheduler", re.ASCII)
    IS = "`rank_<r>` or `scheduler`"

    @property
    def rank(self) -> Optional[int]:
        return int(self[5:]) if self.startswith("rank_") else None


class Sha256(_Text):
    """A hash in hexadecimal digits."""

    FORM = re.compile(r"[0-9a-f]{64}")
    IS = "a SHA-256"


class PlogPath(_Text):
    """A file of CANN's below the folder of its logs; the first of its names is a worker's label."""

    FORM = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}){1,6}", re.ASCII)
    IS = "the path of a log of CANN's"


class ShardName(_Text):
    """The path of a checkpoint file on its host, in the folder of a run's shards or one of a rank in it."""

    # No control characters; those that are none but cannot be shown either are escaped where it is shown.
    FORM = re.compile(
        r"(?!.*[\x00-\x1f\x7f-\x9f])(?:/(?!\.\.?/)[^/]+)*/checkpoint/"
        r"(?:ttp_saved_checkpoints-step_\d{1,12}/)?(?:rank_\d{1,7}/)?"
        r"[^/.-][^/]*\.(?:ckpt|safetensors)"
    )
    IS = "the path of a shard"


class Size(int):
    """A number of bytes, or another that counts."""

    def __new__(cls, value: int) -> Size:
        if value < 0:
            raise ValueError(f"expected no negative number, got {value}")
        return super().__new__(cls, value)


_NONE = Size(0)


@dataclass(frozen=True)
class Told:
    """What a supervisor was told, it has: its phase then, the worker that failed first and why.

    `grace` are the seconds that workers have which are made to end, `saves` whether that is for a checkpoint.
    """

    phase: str
    failed_first: str = ""
    reason: str = ""
    grace: Optional[float] = None
    saves: bool = False


@dataclass(frozen=True)
class Prepared:
    """A run's directory on a host, and the hashes of the files that must be the same on all of them."""

    hashes: Mapping[str, Sha256]
    run_dir: str = ""


@dataclass(frozen=True)
class LogPart:
    """Where the bytes that were sent begin in a log, how long that is now, and when it was last written."""

    offset: Size
    size: Size
    modified: Optional[float] = None


@dataclass(frozen=True)
class PlogFile:
    """One of CANN's own logs; `path` is one, or, of a host that lies, anything."""

    path: str
    size: Size


@dataclass(frozen=True)
class PlogList:
    """CANN's logs of a run; `left` counts, by label, the entries that are not among them."""

    files: Tuple[PlogFile, ...] = ()
    left: Mapping[str, Size] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatEvent:
    """A piece of an answer, or its end with what it cost, or why there is none."""

    text: str = ""
    done: bool = False
    tokens: Size = _NONE
    seconds: float = 0.0
    error: Optional[str] = None


@dataclass(frozen=True)
class RunUse:
    """What a run has on a host's disk, in bytes."""

    run_id: RunId
    nbytes: Size


@dataclass(frozen=True)
class DiskUse:
    """What runs and the content store have on a host's disk, in bytes."""

    runs: Tuple[RunUse, ...] = ()
    store: Size = _NONE


@dataclass(frozen=True)
class Injected:
    """A fault that a host has injected: into whom, for how long (None: for good), how full the disk is."""

    rank: Optional[int] = None
    pid: int = 0
    seconds: Optional[float] = None
    filled: Size = _NONE
    free: Size = _NONE


@dataclass(frozen=True)
class RankStacks:
    """Where one rank's process was, in lines.

    `how` says from whom `text` is: `faulthandler`, it wrote its stacks to its log; `py-spy`, that looked into
    it; `kernel`, neither could be had. `state` is what /proc tells of it: what its threads do, and in which
    function of the kernel they wait. Either may be empty.
    """

    how: str
    text: str = ""
    state: str = ""


@dataclass(frozen=True)
class StacksAnswer:
    """The stacks of the ranks that run on a host, by rank as text."""

    ranks: Mapping[str, RankStacks] = field(default_factory=dict)


@dataclass(frozen=True)
class PutFile:
    """Where a file was put, and the hash of what was read back from there."""

    path: str
    sha256: Sha256


@dataclass(frozen=True)
class ShardRow:
    """A checkpoint of one rank; `identity` is size, time of change and inode number of its file.

    `attempt` is set where those of all attempts are listed, `owner` in a copy: the host that wrote it.
    `global_step` is what the file itself says, where that was asked for.
    """

    rank: Size
    epoch: Size
    step: Size
    rerun: Size
    path: ShardName
    identity: Tuple[int, int, int]
    attempt: Size = _NONE
    owner: Optional[FileName] = None
    global_step: Optional[Size] = None


@dataclass(frozen=True)
class ShardCheck:
    """A shard that is whole as far as can be seen: `summed`, by a checksum; else by its structure alone.

    `sha256` is that of its bytes, where it was asked for. One of several that is not whole has its `damage`.
    """

    summed: bool
    sha256: Optional[Sha256] = None
    damage: str = ""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a checkpoint file: its bytes are `pieces` of it, `(offset, length)`."""

    name: str
    dims: Tuple[Size, ...]
    dtype: str
    pieces: Tuple[Tuple[Size, Size], ...]


@dataclass(frozen=True)
class CopyListener:
    """Where a host listens for copies, to be tried; `tls`: its Python can do TLS."""

    address: str
    port: int
    tls: bool


@dataclass(frozen=True)
class Addresses:
    """The IP addresses of each name, which of them are the host's own, and whose interfaces it has."""

    found: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)
    own: Tuple[str, ...] = ()
    network: str = ""


@dataclass(frozen=True)
class ToolText:
    """What a tool printed, or in `failure` why there is no answer (agent/ascend_tools.py)."""

    text: str = ""
    exit_code: Optional[int] = None
    failure: str = ""


@dataclass(frozen=True)
class ToolTexts:
    """The answers to all calls, and the texts of all files, in the order in which they were asked for."""

    answers: Tuple[ToolText, ...] = ()
    files: Tuple[ToolText, ...] = ()


@dataclass(frozen=True)
class MindSporeAsks:
    """What a host's MindSpore asks of CANN: the versions that it takes, and whether of `opp_kernel`."""

    versions: Tuple[str, ...] = ()
    opp_kernel: bool = False


@dataclass(frozen=True)
class CannCompiler:
    """What `compiler/version.info` says."""

    version: str
    release: Optional[str] = None
    path: str = ""


@dataclass(frozen=True)
class CannFacts:
    """What CANN gives the workers of a host (agent/cann.py)."""

    modules: Mapping[str, Optional[str]] = field(default_factory=dict)
    variables: Mapping[str, Optional[str]] = field(default_factory=dict)
    opp_kernel: bool = False
    set_env: Optional[str] = None
    asked: Optional[MindSporeAsks] = None
    compiler: Optional[CannCompiler] = None


@dataclass(frozen=True)
class Probe:
    """The facts of a host that decide whether a job can run there (agent/host_probe.py)."""

    hostname: str
    pid: Size
    python: str
    executable: str
    workdir: str
    free_bytes: Size
    writable: bool
    clock: float
    busy_devices: Tuple[Size, ...] = ()
    locks_writable: bool = True
    shared_place: str = ""
    packages: Mapping[str, Optional[str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_seen: bool = False
    environment_trouble: str = ""
    env_script_exists: bool = True
    missing_paths: Tuple[str, ...] = ()
    port: Optional[Size] = None
    resolves_to: Tuple[str, ...] = ()
    cann: Optional[str] = None
    ascend: Optional[CannFacts] = None
    limits: Mapping[str, Optional[int]] = field(default_factory=dict)
    shm_free_bytes: Optional[Size] = None
    memory_free_bytes: Optional[Size] = None
    taken_ports: Tuple[Size, ...] = ()
    image: Optional[ImageFacts] = None
