"""A run of two hosts for tests of what is gathered of it: its plan, its record, and hosts that answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.inventory import Device, Host, SshOptions
from orchestrator.config.run_terms import Timeouts
from orchestrator.control.run_record import HostView, RunRecord
from orchestrator.core.errors import AgentError, ConnectError, OrchestrateError
from orchestrator.core.found_evidence import FoundEvidence, FoundLine
from orchestrator.core.host_answers import (
    Label,
    LogPart,
    PlogFile,
    PlogList,
    RankStacks,
    Size,
    StacksAnswer,
    ToolText,
    ToolTexts,
)
from orchestrator.core.records import HostStatus, Manifest, WorkerSpec
from orchestrator.core.states import RunState
from orchestrator.hosts.fleet import HostResults
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.placement import Placement
from tests.control.judged import START, status

RUN = "r1"
NAMES = ("a", "b")


def plan_of(
    *, env: Mapping[str, str] | None = None, ascend: bool = False, table: str | None = None
) -> LaunchPlan:
    """Two hosts of two ranks, each on the device of its local number."""
    hosts = tuple(
        Host(name=name, address=f"10.0.0.{at + 1}", devices=(Device(id=0), Device(id=1)))
        for at, name in enumerate(NAMES)
    )
    given = dict(env or {})
    manifests = {
        name: Manifest(
            run_id=RUN,
            job="job",
            host=name,
            created=START,
            address=f"10.0.0.{at + 1}",
            workers=tuple(
                WorkerSpec(
                    f"rank_{2 * at + local}",
                    2 * at + local,
                    local,
                    local,
                    ("python",),
                    {**given, "RANK_ID": str(2 * at + local)},
                    literal=tuple(given),
                )
                for local in (0, 1)
            ),
        )
        for at, name in enumerate(NAMES)
    }
    placements = tuple(
        Placement(2 * at + local, name, local, local, f"192.168.{at}.{local + 1}", 0, 0, 0)
        for at, name in enumerate(NAMES)
        for local in (0, 1)
    )
    return LaunchPlan(
        run_id=RUN,
        job_name="job",
        task="command",
        created=START,
        hosts=hosts,
        ssh=SshOptions(),
        placements=placements,
        manifests=manifests,
        worker_config="",
        rank_table=table,
        sources={},
        packages=(),
        host_paths=(),
        chooses_port=False,
        ascend=ascend,
        uses_rank_table=False,
        timeouts=Timeouts(),
    )


def record_of(views: Mapping[str, HostView], state: RunState = RunState.FAILED, **fields: Any) -> RunRecord:
    return RunRecord(RUN, "job", "command", 4, START, state, hosts=dict(views), **fields)


def found_of(logs: Mapping[str, Sequence[FoundLine]] | None = None, **fields: Any) -> FoundEvidence:
    lines = {Label(label): tuple(each) for label, each in (logs or {}).items()}
    return FoundEvidence(START, "boot", "boot", logs=lines, **fields)


class FakeAgent:
    """A host's agent; its clock is `ahead` of ours. `logs` are whole logs, `plogs` CANN's by their paths."""

    def __init__(
        self,
        host: str,
        said: HostStatus | None = None,
        found: FoundEvidence | None = None,
        *,
        now: Callable[[], float] = lambda: START,
        ahead: float = 0.0,
        logs: Mapping[str, bytes] | None = None,
        plogs: Mapping[str, bytes] | None = None,
        stacks: Mapping[str, RankStacks] | None = None,
    ) -> None:
        self.host = host
        self.asked: dict[str, Any] = {}
        self._said, self._found, self._now, self._ahead = said, found, now, ahead
        self._logs, self._plogs, self._stacks = logs or {}, plogs or {}, stacks

    def clock(self) -> float:
        return self._now() + self._ahead

    def status(self, run_id: str, *, world_size: int) -> HostStatus:
        if self._said is None:
            raise AgentError("no run r1 on this host", where=self.host, kind="no_run")
        return self._said

    def evidence(self, run_id: str, **asked: Any) -> FoundEvidence:
        self.asked = asked
        if self._found is None:
            raise AgentError("no run r1 on this host", where=self.host, kind="no_run")
        return self._found

    def stacks(self, run_id: str) -> StacksAnswer:
        if self._stacks is None:
            raise AgentError("the agent knows no verb `stacks`", where=self.host, kind="unknown_verb")
        return StacksAnswer(self._stacks)

    def read_log(self, run_id: str, label: str, offset: int, limit: int) -> tuple[LogPart, bytes]:
        data = self._logs.get(label, b"")
        start = max(0, len(data) + offset) if offset < 0 else min(offset, len(data))
        # Seven bytes at a time: whatever is searched for lies across the borders of what is read.
        return LogPart(Size(start), Size(len(data))), data[start : start + min(limit, 7)]

    def list_plogs(self, run_id: str) -> PlogList:
        return PlogList(tuple(PlogFile(path, Size(len(data))) for path, data in self._plogs.items()))

    def read_plog(self, run_id: str, path: str, limit: int) -> bytes:
        return self._plogs[path][-limit:]

    def ask_tools(self, calls: Sequence[Any], files: Sequence[str], **_: Any) -> ToolTexts:
        return ToolTexts(tuple(ToolText("Health Status : OK\n", 0) for _ in calls))


class FakeFleet:
    """Hosts that are asked one after the other; of an agent that is None the host does not answer."""

    def __init__(self, agents: Mapping[str, FakeAgent | None]) -> None:
        self.hosts = dict.fromkeys(agents)
        self._agents = agents

    def each(self, work: Callable[[Any], Any], hosts: Iterable[str] | None = None) -> HostResults[Any]:
        values: dict[str, Any] = {}
        errors: dict[str, OrchestrateError] = {}
        for name in self.hosts if hosts is None else hosts:
            agent = self._agents[name]
            if agent is None:
                errors[name] = ConnectError("no route to host", where=name)
                continue
            try:
                values[name] = work(agent)
            except OrchestrateError as error:
                errors[name] = error
        return HostResults(values, errors)


def view_of(host: str, *ranks: Any, **fields: Any) -> HostView:
    return HostView(status=status(host, *ranks, phase="over"), last_contact=START, **fields)


def folder_of(path: Path) -> Path:
    """A state directory with the folder of the run."""
    (path / "runs" / RUN).mkdir(parents=True)
    return path / "runs" / RUN
