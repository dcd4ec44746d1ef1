"""What a run goes on as: refusals, hosts, and a layout that keeps the global batch."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.control.resume import Changes, counts_that_fit, job_for_hosts, next_job, require_ended
from orchestrator.control.run_record import HostView, new_record
from orchestrator.core.errors import ConfigError, UsageError
from orchestrator.core.records import HostStatus
from orchestrator.core.states import RunState
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan, saved_layout
from tests.plan.test_next_plan import INVENTORY, JOB


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "inventory.yaml").write_text(yaml.safe_dump(INVENTORY))
    (tmp_path / "data.json").write_text(json.dumps([{"instruction": "a", "input": "", "output": "b"}]))
    return tmp_path


def launched(files: Path, **changes):
    (files / "job.yaml").write_text(yaml.safe_dump({**JOB, **changes}))
    return make_plan(load_job(files / "job.yaml"), load_inventory(files / "inventory.yaml"), now=1.0)


def layout(found):
    parallel, train = found.job.parallel, found.job.train
    degrees = (parallel.data_parallel, parallel.model_parallel, parallel.pipeline_stage)
    return degrees, train.batch_size, train.gradient_accumulation


def test_on_the_same_hosts_nothing_changes(files: Path) -> None:
    before = launched(files)
    found = next_job(before, Changes())
    assert (layout(found), found.notes) == (((2, 2, 1), 16, 1), ())
    assert [host.name for host in found.inventory.select(found.job.hosts)] == ["host1", "host2"]


def test_on_other_hosts_of_an_inventory(files: Path) -> None:
    changes = Changes(files / "inventory.yaml", hosts="host[2-3]")
    found = next_job(launched(files), changes)
    assert [host.name for host in found.inventory.select(found.job.hosts)] == ["host2", "host3"]
    assert layout(found) == ((2, 2, 1), 16, 1)
    with pytest.raises(ConfigError, match="no host or group"):
        next_job(launched(files), Changes(hosts="host3"))  # no host of the run, and no inventory is given


def test_on_fewer_hosts_the_global_batch_stays(files: Path) -> None:
    found = next_job(launched(files), Changes(hosts="host1"))
    assert layout(found) == ((1, 2, 1), 32, 2)
    assert found.notes == (
        "the layout of 2 ranks: parallel.data_parallel=1, train.batch_size=32, train.gradient_accumulation=2",
    )
    # A data_parallel that the job leaves out follows the ranks by itself; its batch must follow, too.
    left_out = next_job(launched(files, parallel={"model_parallel": 2}), Changes(hosts="host2"))
    assert layout(left_out) == ((1, 2, 1), 32, 2)


def test_on_one_rank_another_cut_is_proposed(files: Path) -> None:
    found = next_job(launched(files), Changes(hosts="host1", overrides=("devices_per_host=1",)))
    degrees, batch, _ = layout(found)
    assert (degrees, batch) == ((1, 1, 1), 32)


def test_a_batch_that_cannot_be_kept_is_refused_with_how(files: Path) -> None:
    before = launched(
        files, parallel={"data_parallel": 2, "model_parallel": 2}, train={"steps": 9, "batch_size": 1}
    )
    changes = Changes(files / "inventory.yaml", hosts="host[1-3]", overrides=("devices_per_host=1",))
    with pytest.raises(
        UsageError, match=r"no layout of 3 ranks keeps the global batch of 2 .*whose product is 2"
    ):
        next_job(before, changes)


def test_a_batch_that_a_person_sets_is_not_replaced(files: Path) -> None:
    before = launched(files)
    with pytest.raises(UsageError, match="keeps the global batch of 32"):
        next_job(before, Changes(overrides=("train.batch_size=8",)))
    given = Changes(hosts="host1", overrides=("parallel.data_parallel=1", "train.batch_size=32"))
    assert layout(next_job(before, given)) == ((1, 2, 1), 32, 1)
    layout_alone = Changes(overrides=("parallel.data_parallel=4", "parallel.model_parallel=1"))
    assert layout(next_job(before, layout_alone))[:2] == ((4, 1, 1), 8)


def test_a_run_does_not_become_one_of_another_task(files: Path) -> None:
    before = launched(files)
    with pytest.raises(UsageError, match=r"is a run of task finetune, .* not as pretrain .*launch a job"):
        next_job(before, Changes(overrides=("task=pretrain",)))
    assert next_job(before, Changes(overrides=("task=finetune",))).job.task == "finetune"


def test_a_layout_that_was_taken_for_fewer_hosts_is_not_kept_for_all(files: Path) -> None:
    """What a person wrote stays the source: the attempt after next is laid out as the job says."""
    before = launched(files)
    fewer = next_job(before, Changes(hosts="host1"))
    assert fewer.job.source == before.job


def test_a_run_of_an_earlier_version_needs_its_job(files: Path) -> None:
    before = dataclasses.replace(launched(files), job=None)
    with pytest.raises(UsageError, match=r"its job was not kept .*--job"):
        next_job(before, Changes())
    assert layout(next_job(before, Changes(job=files / "job.yaml"))) == ((2, 2, 1), 16, 1)


def ended(before, state: RunState, *, started: bool = True):
    status = HostStatus(before.run_id, "demo", "host1", 2.0, ())
    hosts = {"host1": HostView(status if started else None)}
    return dataclasses.replace(new_record(before), state=state, hosts=hosts, ended=3.0)


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.STOPPED])
def test_what_has_ended_before_its_time_goes_on(files: Path, state: RunState) -> None:
    before = launched(files)
    require_ended(ended(before, state), before, next_job(before, Changes()))


def test_what_has_not_ended_never_began_or_is_done_does_not(files: Path) -> None:
    before = launched(files)
    same = next_job(before, Changes())
    with pytest.raises(UsageError, match=r"has not ended: it is running .*orchestrate stop demo"):
        require_ended(ended(before, RunState.RUNNING), before, same)
    with pytest.raises(UsageError, match="has never started"):
        require_ended(ended(before, RunState.FAILED, started=False), before, same)
    with pytest.raises(UsageError, match=r"done all its 20 steps .*--set train\.steps=N"):
        require_ended(ended(before, RunState.SUCCEEDED), before, same)
    more = next_job(before, Changes(overrides=("train.steps=30",)))
    require_ended(ended(before, RunState.SUCCEEDED), before, more)
    fewer = next_job(before, Changes(overrides=("train.steps=10",)))
    with pytest.raises(UsageError, match="has succeeded"):
        require_ended(ended(before, RunState.SUCCEEDED), before, fewer)


def test_an_attempt_that_begins_by_itself_takes_its_hosts_in_their_order(files: Path) -> None:
    restart = {"max": 2, "min_hosts": 1, "spares": "idle"}
    text = {**INVENTORY, "groups": {"idle": ["host3"]}}
    (files / "inventory.yaml").write_text(yaml.safe_dump(text))
    before = launched(files, restart=restart)
    first, second = before.hosts
    (spare,) = before.spares
    assert counts_that_fit(before, before.hosts) == (1, 2)
    replaced = job_for_hosts(before, [spare, second])
    assert layout(replaced) == ((2, 2, 1), 16, 1) and replaced.notes == ()
    plan = next_plan(before, replaced.job, replaced.inventory)
    assert [host.name for host in plan.hosts] == ["host3", "host2"] and plan.spares == ()
    fewer = job_for_hosts(plan, [second])
    assert layout(fewer) == ((1, 2, 1), 32, 2)
    assert fewer.notes[0].startswith("the layout of 2 ranks: parallel.data_parallel=1, ")
    smaller = next_plan(plan, fewer.job, fewer.inventory)
    assert counts_that_fit(smaller, before.hosts) == (1, 2)
    whole = job_for_hosts(smaller, [first, second])
    assert layout(whole) == ((2, 2, 1), 16, 1)
    assert saved_layout(next_plan(smaller, whole.job, whole.inventory)) == saved_layout(before)
