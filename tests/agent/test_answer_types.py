"""What the agent answers is what the client reads: every verb of a real agent, through the client."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from orchestrator.agent.request_loop import _MODULES
from orchestrator.core import host_answers
from orchestrator.core.ends import StopReason
from orchestrator.hosts.agent_client import Agent
from orchestrator.testing.agent_host import RUN, AgentHost, sh


def keys_of(kind: Any) -> set[str]:
    return {each.name for each in dataclasses.fields(kind)}


def test_the_client_has_a_method_for_each_verb() -> None:
    assert set(_MODULES) <= {name for name in dir(Agent) if not name.startswith("_")}


def test_what_is_told_of_a_host_is_all_that_is_known_of_it(host: AgentHost) -> None:
    """No key that nobody reads, none that is read and never said."""
    probe = host.session.call("probe", ascend=True)
    assert set(probe) == keys_of(host_answers.Probe)
    assert set(probe["ascend"]) == keys_of(host_answers.CannFacts)
    assert set(host.session.call("addresses")) == keys_of(host_answers.Addresses)
    tools = host.session.call("ask_tools", calls=[], files=["/none"], tool_timeout=1.0, parallel=1)
    assert set(tools) == keys_of(host_answers.ToolTexts)
    assert set(tools["files"][0]) == keys_of(host_answers.ToolText)


def test_a_run_through_the_client(host: AgentHost, tmp_path: Path) -> None:
    agent = host.new_agent()
    data = b"print('hi')\n"
    sha256 = hashlib.sha256(data).hexdigest()
    assert agent.missing([sha256]) == [sha256]
    agent.push(sha256, data)
    assert agent.missing([sha256]) == []
    assert abs(agent.clock() - agent.probe().clock) < 60 and agent.busy_devices([0], None) == []
    assert set(agent.addresses(["localhost"], ["127.0.0.1"]).own) >= {"127.0.0.1"}
    put = agent.put_file(str(tmp_path / "table.json"), data, sha256)
    assert (put.sha256, put.path) == (sha256, str(tmp_path / "table.json"))
    manifest = host.manifest(sh("echo one; echo two > answers_file; sleep 300"))
    prepared = agent.prepare(manifest, "a: 1\n", '{"x": 1}')
    assert set(prepared.hashes) == {"worker.yaml", "rank_table.json"}
    assert agent.start(RUN).phase == "started" and agent.commit(RUN).phase == "committed"
    host.wait_file("answers_file")
    status = agent.status(RUN, world_size=1)
    assert [rank.rank for rank in status.ranks] == [0] and status.run_id == RUN
    (run,) = agent.list_runs()
    assert run.manifest == manifest and run.status is not None and not run.problem
    part, log = agent.read_log(RUN, "rank_0", 0, 100)
    assert (part.offset, part.size, log) == (0, 4, b"one\n")
    assert agent.list_plogs(RUN).files == () and agent.shards(RUN) == ()
    assert agent.stop(RUN, StopReason.requested("enough")).phase in ("stopping", "over")
    host.wait_over()
    agent.undo(RUN)
    assert agent.list_runs() == []
    agent.close()
