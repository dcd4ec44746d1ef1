"""A collection takes the shards of one attempt, and never those of two."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from orchestrator.control.next_attempt import put_next_in_force
from orchestrator.control.run_record import read_record
from orchestrator.core.errors import OrchestrateError, UsageError
from orchestrator.core.paths import ControlDir, RunDir
from orchestrator.core.records import Attempt
from orchestrator.plan.launch_plan import read_plan
from orchestrator.transfer.collect import Collection
from orchestrator.transfer.collect_run import dry_run
from tests.fixtures.written import restore

WRITTEN = Path(__file__).parents[1] / "fixtures/attempts"


@pytest.fixture
def control(tmp_path: Path) -> ControlDir:
    """A training of four ranks with shards of two steps; its second attempt has saved one shard."""
    restore(WRITTEN, tmp_path)
    (root,) = tmp_path.glob("state/orchestrate/runs/train-*")
    control = ControlDir(root)
    plan = dataclasses.replace(read_plan(control.plan), attempt=Attempt(2, "two"))
    for path in tmp_path.glob("hosts/*/runs/train-*"):
        run = RunDir(path)
        run.make(2, "two", files={"manifest.json": (run.folder_of(1) / "manifest.json").read_text()})
    (shard,) = tmp_path.glob("hosts/host1/runs/train-*/attempts/1/checkpoint/rank_0/*-1_4.ckpt")
    (run_dir,) = tmp_path.glob("hosts/host1/runs/train-*")
    (run_dir / "checkpoint/rank_0").mkdir()
    (run_dir / "checkpoint/rank_0" / shard.name.replace("_4.ckpt", "_6.ckpt")).write_bytes(shard.read_bytes())
    put_next_in_force(control, read_record(control), plan, time.time())
    return control


def test_an_attempt_is_collected_that_is_in_force_no_more(control: ControlDir) -> None:
    found = dry_run(control, Collection(attempt=1))
    assert (found.choice.step, sorted(found.choice.files), found.unreachable) == (4, [0, 1, 2, 3], {})
    assert all("/attempts/1/checkpoint/" in copy.path for copy in found.plan.copies)


def test_what_the_attempt_in_force_lacks_is_not_taken_from_the_one_before(control: ControlDir) -> None:
    with pytest.raises(OrchestrateError):
        dry_run(control, Collection())


def test_there_is_no_attempt_that_the_run_has_not_had(control: ControlDir) -> None:
    with pytest.raises(UsageError, match="attempts 1 to 2, and no attempt 3"):
        dry_run(control, Collection(attempt=3))
