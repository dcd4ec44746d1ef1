"""Hosts that lie: whatever one says to whatever verb, there is a value of its type, or one documented error.

Seeded, so that a case can be run again. LYING_HOSTS is how many there are, `make test-long` takes 100,000;
LYING_HOSTS_FROM is the first seed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.run_terms import Timeouts
from orchestrator.control.cause import cause_of
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.control.run_tally import RunTally
from orchestrator.control.status_fold import folded
from orchestrator.control.watch import Watch
from orchestrator.core import errors
from orchestrator.core.errors import AgentError, OrchestrateError, TransportError
from tests.hosts import lying_host
from tests.hosts.lying_host import (
    CALLS,
    HONEST,
    READY,
    Clock,
    Lie,
    LyingChannel,
    agent_of,
    boot_lie,
    lie,
    mutated,
    pushes,
)
from tests.hosts.push_host import HandScheduling

CASES = int(os.environ.get("LYING_HOSTS", "3000"))
FIRST = int(os.environ.get("LYING_HOSTS_FROM", "0"))
TIMEOUT = 10.0
DOCUMENTED = {getattr(errors, name) for name in errors.__all__}
# Of these not all is for people: who shows it makes it visible.
RAW = {"ask_tools", "index", "list_runs", "probe", "read_plog", "chat"}


def session(rng: random.Random, clock: Clock) -> LyingChannel:
    return LyingChannel(clock, Lie(iter([READY])), lambda request: lie(rng, request))


def require_documented(error: BaseException) -> None:
    """One of our errors, as one line that can be shown."""
    assert type(error) in DOCUMENTED, repr(error)
    assert isinstance(error, OrchestrateError)
    for line in error.lines():
        assert line and is_shown(line) and len(line) < 4000, line[:300]


def is_shown(text: str) -> bool:
    """Whether a terminal shows the text and obeys nothing in it."""
    return text.replace("\u3000", "").replace("\u00a0", "").isprintable()


def require_shown(value: Any) -> None:
    """No text in the value is one that a terminal obeys."""
    if isinstance(value, str):
        assert is_shown(value), value
    elif dataclasses.is_dataclass(value):
        for each in dataclasses.fields(value):
            require_shown(getattr(value, each.name))
    elif isinstance(value, Mapping):
        require_shown([*value, *value.values()])
    elif isinstance(value, (list, tuple)):
        for each in value:
            require_shown(each)


def test_an_honest_host_is_understood(tmp_path: Path) -> None:
    assert CALLS.keys() == HONEST.keys()
    for verb, call in CALLS.items():
        clock = Clock()
        answers, datas = ([pair[part] for pair in HONEST[verb]] for part in (0, 1))
        frames = lying_host._frames
        channel = LyingChannel(
            clock,
            Lie(iter([READY])),
            lambda request, frames=frames, a=answers, d=datas: Lie(iter([_answer(request, frames, a, d)])),
        )
        call(agent_of(channel, clock), tmp_path)
        assert not channel.closed
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ckpt_strategy_rank_0.ckpt",
        "ckpt_strategy_rank_1.ckpt",
        "plog+rank_0+debug+plog+plog-1.log",
        "rank_0.log",
    ]


def _answer(request: dict[str, Any], frames: Any, answers: list[Any], datas: list[bytes]) -> bytes:
    """A listing is followed by another verb: what it asks for is answered, too."""
    if request["verb"] == "read_plog":
        answers, datas = [None], [b"[ERROR]\n"]
    found: bytes = frames(request["id"], answers, datas)
    return found


def test_whatever_a_host_answers(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verbs, outcomes = sorted(CALLS), {"value": 0, "refused": 0, "lied": 0}
    for case in range(FIRST, FIRST + CASES):
        rng = random.Random(case)
        verb, clock = verbs[case % len(verbs)], Clock()
        channel = session(rng, clock)
        agent = agent_of(channel, clock, TIMEOUT)
        began, asked_at = time.thread_time(), clock.now
        try:
            value = CALLS[verb](agent, folder)
            outcomes["value"] += 1
            if verb not in RAW:
                require_shown(value)
            if verb == "read_segments":
                assert [len(data) for data, _ in value] == [100, 50], case
        except AgentError as error:
            outcomes["refused"] += 1
            require_documented(error)
        except Exception as error:
            outcomes["lied"] += 1
            require_documented(error)
            assert isinstance(error, TransportError), (case, verb, error)
            assert channel.closed, (case, verb, error)
        # Each answer in its time, and a second for every 32 KiB of it; the real clock for what we do with it.
        answers = 3 + channel.given // 40
        assert clock.now - asked_at <= TIMEOUT * min(answers, 400) + channel.given / 32768 + 1, (case, verb)
        assert time.thread_time() - began < 5.0, (case, verb)
        assert channel.given < (1 << 26) + (1 << 20), (case, verb)
    assert all(outcomes.values()), outcomes
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 700 * 1024, f"{grown} KiB"
    # Names that a host may give, and nothing beside the folder.
    names = re.compile(r"[\w.+-]*_rank_\d+\.ckpt|plog\+rank_0\+[\w.+-]+|rank_0\.log", re.ASCII)
    for path in folder.rglob("*"):
        assert path.parent == folder and names.fullmatch(path.name), path
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_whatever_a_host_pushes() -> None:
    """Values of their types that can be shown, reckoned with and judged, or one documented error."""
    honest, outcomes = pushes(), {"taken": 0, "ignored": 0, "lied": 0}
    for case in range(FIRST, FIRST + CASES):
        rng, clock = random.Random(case), Clock()
        lies = [mutated(rng, each) if rng.random() < 0.5 else each for each in honest]
        frames = b"".join(json.dumps(each).encode() + b"\n" for each in lies)
        answered = lying_host._frames(1, [{"sequence": 3}], [b""])
        channel = LyingChannel(clock, Lie(iter([READY])), lambda _, said=answered + frames: Lie(iter([said])))
        agent = agent_of(channel, clock, TIMEOUT)
        status, mark = None, None
        try:
            agent.pushes.expect(lying_host.RUN, 8, frozenset({0}))
            agent.pushes.watch(None, every=2.0, beat=30.0)
            told = agent.heard()
        except Exception as error:
            outcomes["lied"] += 1
            require_documented(error)
            assert isinstance(error, TransportError) and channel.closed, (case, error)
            continue
        outcomes["taken" if len(told) == len(honest) else "ignored"] += 1
        for each in told:
            require_shown(each)
            status, mark, _ = folded(status, mark, each)
        view = HostView(status, 1.0)
        RunTally({"far": view}).state(1, failed=False)
        cause_of({"far": view}, 2.0)
    assert all(outcomes.values()), outcomes


def test_whatever_a_host_says_before_its_agent() -> None:
    started = 0
    for case in range(FIRST, FIRST + CASES // 10):
        rng, clock = random.Random(case), Clock()
        channel = LyingChannel(clock, boot_lie(rng), lambda request, rng=rng: lie(rng, request))
        try:
            agent_of(channel, clock, TIMEOUT)
            started += 1  # noise may be all that stood before and behind the right word
        except Exception as error:
            require_documented(error)
            assert channel.closed
        assert clock.now <= 3 * TIMEOUT + 1 and channel.given < 1 << 20, case
    assert started < CASES // 100


def test_a_host_that_lies_costs_that_host_alone() -> None:
    """The monitor goes on, and the other hosts' ranks run."""
    liars = 0
    for case in range(max(40, CASES // 100)):
        clock = Clock()
        channels = {
            "far": session(random.Random(case), clock),
            "near": LyingChannel(clock, Lie(iter([READY])), _honest_status),
        }
        fleet: Any = _Fleet(channels, clock)
        watch = Watch(_record(), fleet, Timeouts(), scheduling=HandScheduling())
        try:
            record = watch.step(patience=10.0)
        finally:
            watch.close()
        near, far = record.hosts["near"], record.hosts["far"]
        assert [str(rank.state) for rank in near.ranks()] == ["running"] and not near.error
        assert not record.state.is_terminal
        if far.error:
            liars += 1
            assert is_shown(far.error) and not far.ranks()
            assert not far.lost or record.cause is not None
    assert liars


def _honest_status(request: dict[str, Any]) -> Lie:
    if request["verb"] == "watch":
        refusal = {"what": "the agent knows no verb `watch`", "kind": "unknown_verb"}
        return Lie(iter([lying_host._frames(request["id"], [None], [b""], ok=False, error=refusal)]))
    answers = [lying_host.to_json(lying_host.status(rank=1))]
    return Lie(iter([lying_host._frames(request["id"], answers, [b""])]))


def _record() -> RunRecord:
    return RunRecord(run_id=lying_host.RUN, job="j", task="command", world_size=2, created=0.0)


class _Fleet:
    def __init__(self, channels: dict[str, LyingChannel], clock: Clock) -> None:
        self.hosts = dict.fromkeys(channels)
        self._agents = {name: agent_of(channel, clock) for name, channel in channels.items()}

    def agent(self, name: str) -> Any:
        return self._agents[name]

    def drop(self, name: str) -> None:
        self._agents[name].close()

    end_session = drop
