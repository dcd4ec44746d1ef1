"""The metadata.json of an iteration that several hosts have: each is asked, and who fails is told."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.checkpoint.copy_options import Report
from orchestrator.core.errors import ConnectError, HostsFailed
from orchestrator.hosts.agent_client import Agent
from orchestrator.transfer.collect import Collection
from orchestrator.transfer.collect_run import collect_run
from tests.transfer.mindformers_run import CUT, MindFormersRun, weights
from tests.transfer.test_mindformers_runs import arrays, same, saved_in_halves

# What a host answers when it is asked for the file: an error, content that is cut, or what it has.
Faults = list[ConnectError | bytes | None]
AWAY = ConnectError("connection refused")


@pytest.fixture
def both(tmp_path: Path) -> MindFormersRun:
    """Two hosts with the same iteration of step 20."""
    ended = MindFormersRun(tmp_path, CUT)
    folder = saved_in_halves(ended, 20)
    there = ended.run("host2").root / folder.relative_to(ended.run("host1").root)
    shutil.copytree(folder, there)
    return ended


def with_faults(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> None:
    """The hosts in the order in which they are asked."""
    waiting, asked = list(faults), Agent.small_files

    def small_files(self: Agent, run_id: str, folder: str, *rest: Any, **options: Any) -> Iterator[Any]:
        fault = waiting.pop(0) if "iteration_" in folder else None
        if isinstance(fault, ConnectError):
            raise fault
        if fault is not None:
            return iter([("metadata.json", fault)])
        return asked(self, run_id, folder, *rest, **options)

    monkeypatch.setattr(Agent, "small_files", small_files)


def collected(ended: MindFormersRun, said: list[str]) -> Path:
    output = ended.folder / "out.ckpt"
    collect_run(ended.control, Collection(), output, report=Report(say=said.append))
    return output


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (AWAY, "host1: connection refused: metadata.json of host2 was taken"),
        (b'{"state_dict', "host1: metadata.json is no JSON: metadata.json of host2 was taken"),
        (b"", "host1: metadata.json is no JSON: metadata.json of host2 was taken"),
    ],
)
def test_where_one_host_fails_the_file_of_the_next_is_taken_and_it_is_said(
    both: MindFormersRun, monkeypatch: pytest.MonkeyPatch, fault: ConnectError | bytes, words: str
) -> None:
    both.save(10)  # older files of the ranks, to which it fell back
    both.save_strategies()
    with_faults(monkeypatch, [fault, None])
    said: list[str] = []
    same(arrays(collected(both, said)), weights(20))
    assert words in said


def test_where_none_gives_it_the_ranks_own_files_are_taken_and_it_is_said(
    both: MindFormersRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.save(10)
    both.save_strategies()
    with_faults(monkeypatch, [AWAY, b"{"])
    said: list[str] = []
    same(arrays(collected(both, said)), weights(10))
    instead = "the ranks' own files, of step 10, are taken instead"
    assert f"host1: connection refused; host2: metadata.json is no JSON: {instead}" in said


def test_where_there_is_nothing_else_each_host_is_told(
    both: MindFormersRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_faults(monkeypatch, [AWAY, b"{"])
    with pytest.raises(HostsFailed) as caught:
        collected(both, [])
    assert caught.value.lines() == ["host1: connection refused", "host2: metadata.json is no JSON"]
    assert caught.value.exit_code == 3
