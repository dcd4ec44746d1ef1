"""A host that lies, in this process: each verb is answered with a mutation of what an honest agent says.

`lie` makes the mutation: of the JSON (types, sizes, depth, names, keys) or of the frames around it (numbers,
lengths, ends, drips, floods). The channel keeps a clock of its own, so that waiting takes no time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.control import logs
from orchestrator.core.claims import Tombstone
from orchestrator.core.codec import to_json
from orchestrator.core.ends import End, EndKind, StopReason
from orchestrator.core.errors import CommandTimeout, TransportError
from orchestrator.core.host_answers import ShardRow, Size, StacksAnswer, TensorEntry
from orchestrator.core.protocol import Receiver
from orchestrator.core.push import Beat, Change, Digest, Snapshot
from orchestrator.core.records import (
    Claim,
    CopiedFile,
    CopyStatus,
    HostStatus,
    Manifest,
    Phase,
    ProcessId,
    RankStatus,
    WorkerSpec,
)
from orchestrator.core.states import RankState
from orchestrator.hosts.agent_client import Agent
from orchestrator.hosts.boot import Bundle
from orchestrator.hosts.session import Session
from orchestrator.hosts.transport import Channel, Transport
from orchestrator.transfer import small_files

__all__ = [
    "CALLS",
    "HONEST",
    "Clock",
    "Lie",
    "LyingTransport",
    "agent_of",
    "boot_lie",
    "lie",
    "mutated",
    "pushes",
    "status",
]

RUN = "run-20260101-120000-abcd"
SHARD = f"/w/runs/{RUN}/checkpoint/rank_0/m_rank_0-1_4.ckpt"
SHA = "ab" * 32
READY = b"orchestrate-agent ready\n"
_HANG, _END = "hang", "end"


class Clock:
    """Seconds that pass when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Lie:
    """What a host sends: pieces as they come, then what it does: nothing more, or hang up.

    `drip` is how many seconds it takes for each piece.
    """

    pieces: Iterator[bytes]
    then: str = _HANG
    drip: float = 0.0


# What stands for the agent: one that says `ready` and `need` gets it all the same.
ZIP = b"agent"


class LyingChannel(Channel):
    """Reads and writes of one session; `answer` makes a lie of each request."""

    def __init__(self, clock: Clock, boot: Lie, answer: Callable[[dict[str, Any]], Lie]) -> None:
        super().__init__("far", ("python",))
        self.closed = False
        self.given = 0
        self._clock = clock
        self._answer = answer
        self._asked = Receiver()
        self._lie = boot
        self._left = b""
        self._is_booted = False
        self._tell: Callable[[], None] = lambda: None

    def on_readable(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        tell()

    def read_ready(self, size: int) -> bytes | None:
        """What it sends without waiting to be read; time passes as it drips."""
        if self.closed:
            raise self._closed_error()
        self._left = self._left or next(self._lie.pieces, b"")
        if not self._left and self._lie.then == _HANG:
            return None
        return self.read(size)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.closed:
            raise self._closed_error()
        if not self._is_booted or bytes(data).startswith(ZIP):
            return
        self._asked.feed(bytes(data))
        self._asked.take(self._asked.left)
        while not self._asked.left and (request := self._asked.header()) is not None:
            self._asked.take(self._asked.left)
            self._lie, self._left = self._answer(request), b""
            self._tell()

    def read(self, size: int) -> bytes:
        if self.closed:
            raise self._closed_error()
        patience = self.timeout or 0.0
        waits = 0.0
        if not self._left:
            self._left = next(self._lie.pieces, b"")
            waits = self._lie.drip
        if waits > patience or (not self._left and self._lie.then == _HANG):
            self._clock.now += patience
            raise CommandTimeout("no answer", where=self.host)
        self._clock.now += waits
        data, self._left = self._left[:size], self._left[size:]
        self._is_booted = self._is_booted or bool(data)
        self._clock.now += 1e-5
        self.given += len(data)
        return data

    def close_stdin(self) -> None:
        raise AssertionError("nobody does that")

    def wait(self, timeout: float | None = None) -> int:
        return 1

    def stderr_bytes(self) -> bytes:
        return b"noise\n\x1b[31m" + b"\xff\x00" * 100_000

    def close(self) -> None:
        self.closed = True


class LyingTransport(Transport):
    """A host with one such channel."""

    def __init__(self, channel: LyingChannel) -> None:
        super().__init__("far")
        self.channel = channel
        self.is_open = False

    def connect(self) -> None:
        pass

    def close(self) -> None:
        self.channel.close()

    def _open(self, argv: tuple[str, ...]) -> Channel:
        if self.channel.closed or self.is_open:
            raise TransportError("no more channels", where="far")
        self.is_open = True
        return self.channel


def agent_of(channel: LyingChannel, clock: Clock, timeout: float = 10.0) -> Agent:
    bundle = Bundle(ZIP, SHA)
    session = Session(
        LyingTransport(channel), python="p", workdir="~/w", bundle=bundle, timeout=timeout, clock=clock
    )
    return Agent(session)


def status(run_id: str = RUN, **rank: Any) -> HostStatus:
    state = {
        "rank": 0,
        "local_rank": 0,
        "device_id": 0,
        "state": RankState.RUNNING,
        "phase": Phase.STEP,
        "phase_since": 1e9,
        "can": ("stacks", "save"),
        "saved": 2,
        **rank,
    }
    return HostStatus(
        run_id=run_id,
        job="j",
        host="far",
        updated=1e9,
        ranks=(RankStatus(**state, progress={"step": 3, "loss": 1.5, "first": {"step": 1, "time": 1e9}}),),
        phase="committed",
        copies=CopyStatus(2, 1, "b: no room", "b", (CopiedFile("rank_0/m_rank_0-1_2.ckpt", 2, 99, SHA),)),
    )


def pushes() -> list[dict[str, Any]]:
    """What an honest agent says to who watches."""
    end = End(EndKind.EXITED, 1e9, exit_code=1, tail=("Error: x",), evidence=("y",))
    told = [
        Snapshot(3, 1e9, status(), ProcessId(7, 70, "boot")),
        Digest(3, 1e9, 4, 5, {"0": 4}, 1.5, 0, {"step": 5, "loss": 1.25, "time": 1e9}, {"0": 1.25}),
        Beat(3, 1e9),
        Change(4, 1e9, "stopping", (RankStatus(0, 0, 0, RankState.FAILED, end=end),), failed_first=0),
    ]
    return [{"event": each.EVENT, "data": to_json(each)} for each in told]


def mutated(rng: random.Random, value: Any) -> Any:
    """The value with something wrong in it."""
    return _mutated(rng, value)


def _manifest() -> dict[str, Any]:
    worker = WorkerSpec("rank_0", 0, 0, 0, ("python",), {"A": "b"})
    manifest = Manifest(
        run_id=RUN, job="j", host="far", created=1e9, workers=(worker,), launch={"timeouts": {"grace": 5.0}}
    )
    found: dict[str, Any] = to_json(manifest)
    return found


_PROBE = {
    "hostname": "far",
    "pid": 7,
    "python": "3.9.9",
    "executable": "/usr/bin/python3",
    "workdir": "/w",
    "free_bytes": 1 << 40,
    "writable": True,
    "clock": 1e9,
    "busy_devices": [1],
    "locks_writable": True,
    "packages": {"mindspore": "2.10.0"},
    "environment": {"HCCL_BUFFSIZE": "200"},
    "environment_seen": True,
    "environment_trouble": "",
    "env_script_exists": True,
    "missing_paths": ["/data"],
    "port": 8118,
    "resolves_to": ["10.0.0.1"],
    "cann": "8.3.RC1",
    "ascend": {
        "modules": {"te": "/cann/te.py", "tbe": None},
        "variables": {"PYTHONPATH": "/cann"},
        "opp_kernel": False,
        "set_env": "/cann/set_env.sh",
        "asked": {"versions": ["8.3"], "opp_kernel": False},
        "compiler": {"version": "8.3.0", "release": "8.3.RC1", "path": "/cann"},
    },
    "limits": {"open files": 1024, "processes": None},
    "shm_free_bytes": 1 << 30,
    "memory_free_bytes": 1 << 34,
    "taken_ports": [8118],
}
_QUESTIONS: dict[str, Any] = {
    "devices": [0, 1],
    "packages": ["mindspore"],
    "paths": ["/data"],
    "ports": [8118],
}
_SEGMENT = bytes(range(100))
Frames = list[tuple[Any, bytes]]

# What an honest agent says to each verb: its answers, each with the data behind it.
HONEST: dict[str, Frames] = {
    "bury": [(to_json(status()), b"")],
    "claim": [({"epoch": 2, "holder": "me@here"}, b"")],
    "addresses": [({"found": {"n": ["10.0.0.1"]}, "own": ["10.0.0.1"], "network": "boot net"}, b"")],
    "ask_tools": [
        (
            {
                "answers": [{"text": "ipaddr:10.0.0.1\n", "exit_code": 0, "failure": ""}],
                "files": [{"text": "address_0=10.0.0.1\n", "exit_code": None, "failure": ""}],
            },
            b"",
        )
    ],
    "busy_devices": [([1], b"")],
    "chat": [({"text": "be"}, b""), ({"done": True, "tokens": 2, "seconds": 0.5}, b""), (None, b"")],
    "clock": [(1e9, b"")],
    "commit": [({"phase": "committed", "failed_first": "", "reason": ""}, b"")],
    "copy_addresses": [(["10.0.0.1"], b"")],
    "copy_close": [(None, b"")],
    "copy_listen": [({"address": "10.0.0.1", "port": 29700, "tls": True}, b"")],
    "copy_reach": [("timed out", b"")],
    "disk_use": [({"runs": [{"run_id": RUN, "nbytes": 4096}], "store": 8192}, b"")],
    "evidence": [
        (
            {
                "launched": 1e9,
                "boot_id": "boot",
                "launched_boot_id": "boot",
                "supervisor_lives": True,
                "guardian_lives": False,
                "logs": {"rank_0": [{"text": "ValueError: x", "source": "worker", "time": 1e9}]},
                "kernel": [{"text": "Out of memory: Killed process 7 (python)", "time": 1e9}],
                "kills_in_groups": 1,
                "kills_on_host": 1,
                "memory_limit": 1 << 30,
                "disks": [{"use": "workdir", "path": "/w", "free": 1, "total": 9, "free_inodes": 3}],
                "chips": [{"device": 0, "lines": ["Health Status : OK"], "failure": ""}],
                "unread": ["device health: npu-smi is not there"],
            },
            b"",
        )
    ],
    "index": [([to_json(TensorEntry("a.w", (Size(2), Size(3)), "Float32", ((Size(9), Size(24)),)))], b"")],
    "list_plogs": [
        ({"files": [{"path": "rank_0/debug/plog/plog-1.log", "size": 9}], "left": {"rank_0": 1}}, b"")
    ],
    "list_runs": [([{"manifest": _manifest(), "status": to_json(status())}], b"")],
    "check_shards": [([{"summed": True, "sha256": SHA}, {"summed": False, "damage": "cut"}], b"")],
    "missing": [([SHA], b"")],
    "prepare": [({"hashes": {"worker.yaml": SHA}, "run_dir": "/w"}, b"")],
    "probe": [(_PROBE, b"")],
    "push": [(None, b"")],
    "put_file": [({"path": "/w/rank_table.json", "sha256": SHA}, b"")],
    "read_log": [({"offset": 0, "size": 9}, b"one\ntwo\n\xff")],
    "read_plog": [(None, b"[ERROR]\n")],
    "read_segments": [(7, _SEGMENT), (8, _SEGMENT[:50]), (None, b"")],
    "remove_run": [(4096, b"")],
    "require_port": [(None, b"")],
    "shards": [([to_json(ShardRow(*map(Size, (0, 1, 4, 0)), SHARD, (99, 10**18, 5)))], b"")],  # type: ignore[arg-type]
    "small_files": [("ckpt_strategy_rank_0.ckpt", b"x"), ("ckpt_strategy_rank_1.ckpt", b"y"), (None, b"")],
    "spare_hold": [({"run_id": RUN, "devices": [0, 1], "warmth": "importing"}, b"")],
    "spare_release": [(None, b"")],
    "spare_renew": [({"run_id": RUN, "devices": [0], "warmth": "ready", "warm_seconds": 2.5}, b"")],
    "spare_status": [({"run_id": RUN, "devices": [], "warmth": "failed", "trouble": "No module"}, b"")],
    "sum_segments": [([7, 8], b"")],
    "stacks": [
        (
            {"ranks": {"0": {"how": "faulthandler", "text": "Thread 0x1:\n  File 'a.py'\n", "state": "S\n"}}},
            b"",
        )
    ],
    "start": [({"phase": "started", "failed_first": "", "reason": ""}, b"")],
    "status": [(to_json(status()), b"")],
    "stop": [({"phase": "stopping", "failed_first": "rank_0", "reason": "r"}, b"")],
    "sweep_store": [(0, b"")],
    "release": [(None, b"")],
    "renew": [({"phase": "committed", "failed_first": "", "reason": ""}, b"")],
    "undo": [(None, b"")],
    "watch": [({"sequence": 3}, b"")],
}


def _segments(agent: Agent) -> list[tuple[bytes, int]]:
    buffer = memoryview(bytearray(100))
    segments = [(SHARD, [(0, 60), (80, 40)]), (SHARD, [(0, 50)])]
    found = agent.read_segments(buffer, segments, {SHARD: (99, 10**18, 5)}, timeout=10.0)
    return [(bytes(data), crc) for data, crc in found]


def _lines(told: StacksAnswer) -> dict[str, list[str]]:
    """As they are shown: line by line."""
    return {rank: f"{each.how}\n{each.text}\n{each.state}".split("\n") for rank, each in told.ranks.items()}


def _copied_files(agent: Agent, folder: Path) -> list[str]:
    """As a collection puts them beside its output."""
    known = small_files.KNOWN["strategy"]
    names = []
    for name, data in agent.small_files(RUN, "strategy", known):
        if name is not None:
            (folder / name).write_bytes(data)
            names.append(name)
    return names


def _copied_plogs(agent: Agent, folder: Path) -> str:
    return logs._copy_plogs(agent, RUN, ["rank_0"], folder, end=100, most=1000)


def _copied_log(agent: Agent, folder: Path) -> None:
    logs._copy_log(agent, RUN, "rank_0", folder / "rank_0.log")


# How the project asks each verb; what is written goes into the folder.
CALLS: dict[str, Callable[[Agent, Path], Any]] = {
    "bury": lambda agent, _: agent.bury(Tombstone(RUN)),
    "claim": lambda agent, _: agent.claim(RUN, Claim(2, "me@here")),
    "addresses": lambda agent, _: agent.addresses(["n"], ["10.0.0.1"]),
    "ask_tools": lambda agent, _: agent.ask_tools(
        [("npu-smi", "info")], ["/etc/hccn.conf"], tool_timeout=1.0, parallel=8, timeout=10.0
    ),
    "busy_devices": lambda agent, _: agent.busy_devices([0, 1], None),
    "chat": lambda agent, _: list(agent.chat(RUN, {"messages": []}, timeout=10.0)),
    "clock": lambda agent, _: agent.clock(),
    "commit": lambda agent, _: agent.commit(RUN),
    "copy_addresses": lambda agent, _: agent.copy_addresses("10.0.0.0/24"),
    "copy_close": lambda agent, _: agent.copy_close(),
    "copy_listen": lambda agent, _: agent.copy_listen(
        "10.0.0.0/24", (29700, 29701), run_id=RUN, host="far", word="w"
    ),
    "copy_reach": lambda agent, _: agent.copy_reach("10.0.0.1", "10.0.0.2", 29700, "w", timeout=5.0),
    "disk_use": lambda agent, _: agent.disk_use(),
    "evidence": lambda agent, _: agent.evidence(
        RUN, labels=["rank_0"], devices=[0], seconds=5.0, timeout=10.0
    ),
    "index": lambda agent, _: agent.index(SHARD),
    "check_shards": lambda agent, _: agent.check_shards(
        [(SHARD, (99, 10**18, 5), True), (SHARD, (99, 10**18, 6), False)]
    ),
    "list_plogs": _copied_plogs,
    "list_runs": lambda agent, _: agent.list_runs(),
    "missing": lambda agent, _: agent.missing([SHA]),
    "prepare": lambda agent, _: agent.prepare(_MANIFEST, "a: 1\n", None),
    "probe": lambda agent, _: agent.probe(**_QUESTIONS),
    "push": lambda agent, _: agent.push(SHA, b"data"),
    "put_file": lambda agent, _: agent.put_file("rank_table.json", b"{}", SHA),
    "read_log": _copied_log,
    "read_plog": lambda agent, _: agent.read_plog(RUN, "rank_0/a.log", 100),
    "read_segments": lambda agent, _: _segments(agent),
    "remove_run": lambda agent, _: agent.remove_run(RUN, dry_run=False),
    "require_port": lambda agent, _: agent.require_port("10.0.0.1", 8118),
    "shards": lambda agent, _: agent.shards(RUN),
    "small_files": _copied_files,
    "spare_hold": lambda agent, _: agent.spare_hold(RUN, [0, 1], None, lease=60.0),
    "spare_release": lambda agent, _: agent.spare_release(RUN),
    "spare_renew": lambda agent, _: agent.spare_renew(RUN),
    "spare_status": lambda agent, _: agent.spare_status(RUN),
    "stacks": lambda agent, _: _lines(agent.stacks(RUN)),
    "start": lambda agent, _: agent.start(RUN),
    "sum_segments": lambda agent, _: agent.sum_segments(
        [(SHARD, [(0, 60), (80, 40)]), (SHARD, [(0, 50)])], {SHARD: (99, 10**18, 5)}, timeout=10.0
    ),
    "status": lambda agent, _: agent.status(RUN, world_size=8),
    "stop": lambda agent, _: agent.stop(RUN, StopReason.requested("enough")),
    "sweep_store": lambda agent, _: agent.sweep_store([RUN], dry_run=True),
    "release": lambda agent, _: agent.release(RUN),
    "renew": lambda agent, _: agent.renew(RUN),
    "undo": lambda agent, _: agent.undo(RUN),
    "watch": lambda agent, _: (agent.watch(RUN, None, every=2.0, beat=30.0), agent.heard()),
}
_MANIFEST = Manifest(run_id=RUN, job="j", host="far", created=1e9, workers=())

# Values that are wrong nearly everywhere.
_JUNK: list[Any] = [
    None,
    True,
    -1,
    -(10**30),
    10**17,
    1 << 63,
    10**40,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    {},
    [[]],
    {"": 0},
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "-rf",
    ".hidden",
    "a\0b",
    "\x1b[31mred\x1b]0;title\x07",
    "two\nlines\r",
    "\u202eevil",
    "\ud800",
    "x" * 5000,
    "rank_99999999999",
    "rank_-1",
    "rank_0/../../x.log",
    "[bold]markup[/]",
    "run/../../x",
]


def lie(rng: random.Random, request: dict[str, Any]) -> Lie:
    """A mutation of what an honest agent answers to this request."""
    verb, number = request["verb"], request.get("id")
    answers = json.loads(json.dumps([result for result, _ in HONEST[verb]]))
    datas = [data for _, data in HONEST[verb]]
    if rng.random() < 0.65:
        at = rng.randrange(len(answers))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            answers[at] = _mutated(rng, answers[at])
        return Lie(iter([_frames(number, answers, datas)]), rng.choice((_HANG, _END)))
    return _FRAMES[rng.randrange(len(_FRAMES))](rng, number, answers, datas)


def _frames(number: Any, answers: list[Any], datas: list[bytes], **changes: Any) -> bytes:
    found = b""
    for index, (result, data) in enumerate(zip(answers, datas, strict=True)):
        header = {"id": number, "ok": True, "result": result, "bytes": len(data)}
        header["more"] = index + 1 < len(answers)
        found += json.dumps({**header, **changes}).encode() + b"\n" + data
    return found


def _mutated(rng: random.Random, value: Any) -> Any:
    """The value with something wrong at one place in it."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        return _with_change(rng, value, key)
    return _wrong(rng, value)


def _with_change(rng: random.Random, value: Any, key: Any) -> Any:
    changed = dict(value) if isinstance(value, dict) else list(value)
    action = rng.random()
    if action < 0.15:
        del changed[key]
    elif action < 0.3 and isinstance(changed, dict):
        changed[rng.choice([each for each in _JUNK if isinstance(each, str)])] = changed.pop(key)
    elif action < 0.4 and isinstance(changed, list):
        changed += [changed[key]] * rng.choice((1, 3, 20))
    else:
        changed[key] = _mutated(rng, changed[key])
    return changed


def _wrong(rng: random.Random, value: Any) -> Any:
    kind = rng.random()
    many = value if isinstance(value, (int, float)) or value in ("", None) else "x"
    if kind < 0.04:
        return _nested(rng.choice((20, 200, 3000)))
    if kind < 0.06:
        return [many] * rng.choice((1000, 20_000))
    if kind < 0.1:
        return {str(number): many for number in range(rng.choice((10, 2000)))}
    if isinstance(value, str) and kind < 0.5:
        junk = rng.choice([each for each in _JUNK if isinstance(each, str)])
        return rng.choice((value + junk, junk + value, junk))
    return rng.choice(_JUNK)


def _nested(depth: int) -> Any:
    """Deep, and only so deep that `json` can write it."""
    value: Any = 0
    for _ in range(min(depth, 900)):
        value = [value]
    return value


def _cut(rng: random.Random, number: Any, answers: list[Any], datas: list[bytes]) -> Lie:
    whole = _frames(number, answers, datas)
    return Lie(iter([whole[: rng.randrange(len(whole))]]), rng.choice((_HANG, _END)))


def _dripping(rng: random.Random, number: Any, answers: list[Any], datas: list[bytes]) -> Lie:
    whole = _frames(number, answers, datas)
    return Lie((whole[at : at + 1] for at in range(len(whole))), drip=rng.choice((0.001, 0.5, 9.0, 11.0)))


def _endless(rng: random.Random, number: Any, answers: list[Any], datas: list[bytes]) -> Lie:
    """Without end: one line, blanks, opened brackets, small answers, events, numbers of one list."""
    head = b'{"id": %d, "ok": true, "result": ' % number
    begin, block = [
        lambda: (b"", b"x" * 65536),
        lambda: (b"", b" " * 65536),
        lambda: (b"", b"\n" * 4096),
        lambda: (head, b"[" * 65536),
        lambda: (head + b"[", b"0," * 30000),
        lambda: (head + b'"', b"a" * 65536),
        lambda: (b"", _frames(number, [None], [b""], more=True) * 100),
        lambda: (b"", b'{"event": "e", "data": 1}\n' * 300),
        lambda: (b"", b'{"event": "' + b"e" * 60000),
        lambda: (_frames(number, [None], [b""], bytes=1 << 62), bytes(65536)),
    ][rng.randrange(10)]()

    def pieces() -> Iterator[bytes]:
        yield begin
        while True:
            yield block

    return Lie(pieces(), drip=rng.choice((0.0, 0.0, 1.0)))


def _odd_header(rng: random.Random, number: Any, answers: list[Any], datas: list[bytes]) -> Lie:
    changes = rng.choice(
        [
            {"id": rng.choice([*_JUNK, number + 1, number - 1, str(number)])},
            {"bytes": rng.choice([*_JUNK, 5, 10**9, 1 << 40])},
            {"more": rng.choice(_JUNK)},
            {"ok": rng.choice(_JUNK)},
            {"ok": False, "error": rng.choice(_JUNK)},
            {"ok": False, "error": {"what": rng.choice(_JUNK), "remedy": rng.choice(_JUNK), "kind": "x"}},
            {"event": rng.choice(_JUNK)},
        ]
    )
    return Lie(iter([_frames(number, answers, datas, **changes)]), rng.choice((_HANG, _END)))


def _noise(rng: random.Random, number: Any, answers: list[Any], datas: list[bytes]) -> Lie:
    whole = bytearray(_frames(number, answers, datas))
    for _ in range(rng.choice((1, 2, 30))):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return Lie(iter([bytes(whole)]), rng.choice((_HANG, _END)))


def _beside(rng: random.Random, number: Any, answers: list[Any], datas: list[bytes]) -> Lie:
    """The answer, and around it what nobody asked for."""
    whole = _frames(number, answers, datas)
    event = json.dumps({"event": "end", "data": rng.choice(_JUNK)}).encode() + b"\n"
    return Lie(
        iter(
            rng.choice(
                [
                    [event * 3, whole, event],
                    [whole + whole],
                    [whole, b"trailing"],
                    [event * 5000, whole],
                    [rng.randbytes(200), whole],
                    [b"\n", whole],
                ]
            )
        )
    )


def _other_length(rng: random.Random, number: Any, answers: list[Any], datas: list[bytes]) -> Lie:
    """More or less data than there is by right."""
    longer = [rng.choice((data + b"x" * 1000, data[:-1], b"", data * 3)) for data in datas]
    return Lie(iter([_frames(number, answers, longer)]), rng.choice((_HANG, _END)))


_FRAMES = (_cut, _dripping, _endless, _odd_header, _odd_header, _noise, _beside, _other_length)


def boot_lie(rng: random.Random) -> Lie:
    """What a host may say in place of `ready`."""
    noise = rng.randbytes(rng.choice((1, 50, 3000)))
    words = rng.choice(
        [
            b"orchestrate-agent old 2.7.18\x1b[31m\n",
            b"orchestrate-agent error not json\n",
            b"orchestrate-agent error " + b"[" * 3000 + b"\n",
            b'orchestrate-agent error "\\u001b[31m\\n\\ud800"\n',
            b"orchestrate-agent need\n" * 300,
            b"orchestrate-agent " + b"x" * 100_000 + b"\n",
            b"orchestrate-agent\n",
            b"orchestrate-agent ready",
            b"noise\n" * 500,
            b"",
        ]
    )
    endless = rng.random() < 0.2

    def pieces() -> Iterator[bytes]:
        yield noise + words
        while endless:
            yield noise

    return Lie(pieces(), rng.choice((_HANG, _END)), rng.choice((0.0, 0.0, 1.0, 61.0)))
