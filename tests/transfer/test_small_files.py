"""A run's small files: what a host may call them, and that they come in pieces."""

import os

import pytest

from orchestrator.agent import host_runs
from orchestrator.core.errors import AgentError
from orchestrator.core.paths import RunDir
from orchestrator.core.visible_text import visible
from orchestrator.transfer.small_files import KNOWN, gather
from orchestrator.transfer.small_files import Spool as Pieces

OUTSIDE = (
    *(
        "../../.ssh/authorized_keys",
        "/root/.bashrc",
        ".bashrc",
        "..",
        "",
        "config.yaml/../x",
        "config.yaml\n",
    ),
    *("a/ckpt_strategy_rank_0.ckpt", "../ckpt_strategy_rank_0.ckpt", "\0_rank_0.ckpt", "x_rank_0.ckpt\n"),
    *("tokenizer.json.sh", "\x1b[2J_rank_0.ckpt", "-rf", "x_rank_٣.ckpt"),
)


class Host:
    """What `gather` asks of an agent; it lies about names, or refuses."""

    def __init__(self, host, names, error=None):
        self.host, self._names, self._error = host, names, error

    def small_files(self, run_id, folder, known, *, total, attempt=None):
        if self._error:
            raise self._error
        for name in self._names:
            # As the client to agents has it.
            yield (name, b"x") if known.fullmatch(name) else (None, b"")


class Hosts:
    def __init__(self, *agents):
        self.hosts = {agent.host: None for agent in agents}
        self._agents = agents

    def each(self, work, hosts):
        values, errors = {}, {}
        for agent in self._agents:
            try:
                values[agent.host] = work(agent)
            except AgentError as error:
                errors[agent.host] = error
        return type("Results", (), {"values": values, "errors": errors})


@pytest.mark.parametrize("folder", KNOWN)
def test_no_name_leads_out_of_the_folder(folder):
    assert not [visible(name) for name in OUTSIDE if KNOWN[folder].fullmatch(name)]
    fleet = Hosts(Host("a", OUTSIDE))
    found = gather(fleet, "run", folder, lambda host: None, Pieces())
    assert found.files == {}
    assert found.notes == [f"a: {len(OUTSIDE)} files of {folder}/ are none of ours and were left out"]


def test_a_host_that_refuses_is_named_unless_it_has_the_run_no_more():
    names = ("config.yaml", "tokenizer.json")
    gone, odd = AgentError("no run", kind="no_run"), AgentError("it is a named pipe", kind="foreign")
    fleet = Hosts(Host("a", names), Host("b", (), gone), Host("c", (), odd))
    found = gather(fleet, "run", "model", lambda host: None, Pieces())
    assert sorted(found.files) == sorted(names)
    assert found.notes == ["c: model/ was not read: it is a named pipe"]


def test_files_come_in_pieces_and_foreign_ones_not_at_all(tmp_path):
    run = RunDir(tmp_path / "runs" / "r")
    run.make()
    content = os.urandom((2 << 20) + 7)
    for name in ("tokenizer.json", "weights.bin", "config.yaml"):
        (run.attempt.model / name).write_bytes(b"" if name == "config.yaml" else content)
    pieces = list(host_runs.small_files(run, "model", KNOWN["model"].pattern))
    assert max(len(piece) for _, piece in pieces) == 1 << 20
    assert [len(piece) for name, piece in pieces if name == "weights.bin"] == [0]
    assert b"".join(piece for name, piece in pieces if name == "tokenizer.json") == content
    assert ("config.yaml", b"") in pieces
