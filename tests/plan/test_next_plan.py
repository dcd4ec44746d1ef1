"""The plan of a run's next attempt, and what of the run must not have changed."""

import json
from pathlib import Path

import pytest
import yaml

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job, load_job_again
from orchestrator.core.errors import ConfigError
from orchestrator.plan.launch_plan import read_plan, write_plan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan, saved_layout
from orchestrator.preflight.host_facts import needs_of

INVENTORY = {
    "transport": "local",
    "defaults": {"workdir": "/w/{name}", "devices": "0-3"},
    "hosts": [{"name": "host[1-3]"}],
}
JOB = {
    "name": "demo",
    "task": "finetune",
    "host_count": 2,
    "devices_per_host": 2,
    "parallel": {"data_parallel": 2, "model_parallel": 2},
    "model": {"preset": "tiny"},
    "data": {"path": "data.json", "seq_length": 64},
    "train": {"steps": 20, "batch_size": 16},
    "env": {"TOKEN": "secret"},
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "inventory.yaml").write_text(yaml.safe_dump(INVENTORY))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    (tmp_path / "data.json").write_text(json.dumps([{"instruction": "a", "input": "", "output": "b"}]))
    return tmp_path


def first(files: Path, *overrides: str):
    return make_plan(
        load_job(files / "job.yaml", overrides), load_inventory(files / "inventory.yaml"), now=1.0
    )


def following(files: Path, before, *overrides: str, **kwargs):
    job = load_job_again(before.job, overrides)
    return next_plan(before, job, load_inventory(files / "inventory.yaml"), overrides=overrides, **kwargs)


def worker(plan):
    return yaml.safe_load(plan.worker_config)


def test_it_is_the_same_run_that_resumes_from_its_own_folder(files: Path) -> None:
    before = first(files)
    plan = following(files, before)
    assert (plan.run_id, plan.created) == (before.run_id, before.created)
    assert plan.attempt.number == 2 and plan.attempt.token not in ("", before.attempt.token)
    assert worker(plan)["checkpoint"]["load"] == "attempts/2/load"
    assert worker(plan)["checkpoint"]["resume"] is True
    for manifest in plan.manifests.values():
        assert manifest.attempt == plan.attempt
        assert {each.env["ORCHESTRATE_ATTEMPT"] for each in manifest.workers} == {"2"}
    assert saved_layout(plan) == saved_layout(before)
    third = following(files, plan)
    assert third.attempt.number == 3 and worker(third)["checkpoint"]["load"] == "attempts/3/load"


def test_the_job_is_the_one_that_was_launched(files: Path) -> None:
    before = first(files, "train.steps=30")
    write_plan(files / "plan.json", before)
    assert (files / "plan.json").stat().st_mode & 0o777 == 0o600
    (files / "job.yaml").unlink()  # or it has been changed since
    again = read_plan(files / "plan.json")
    plan = following(files, again)
    assert worker(plan)["train"]["steps"] == 30
    assert plan.manifests["host1"].workers[0].env["TOKEN"] == "secret"
    longer = following(files, plan, "train.steps=40")
    assert worker(longer)["train"]["steps"] == 40
    assert "train.steps is 40, of the attempt before 30" in longer.notes
    assert worker(following(files, longer))["train"]["steps"] == 40  # what was changed stays changed


def test_what_it_was_launched_from_is_not_loaded_again(files: Path) -> None:
    weights = files / "old.ckpt"
    weights.write_text("weights")
    (files / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    before = first(files, "checkpoint.load=old.ckpt")
    assert any(item.path == "inputs/load/old.ckpt" for item in before.manifests["host1"].inputs)
    plan = following(files, before)
    assert not any(item.path.startswith("inputs/load/") for item in plan.manifests["host1"].inputs)
    anew = following(files, before, fresh=True)
    assert anew.origin == (0, 0) and worker(anew)["checkpoint"]["load"] == "inputs/load/old.ckpt"


def test_data_that_has_changed_is_refused_unless_it_is_chosen(files: Path) -> None:
    before = first(files)
    (files / "data.json").write_text(json.dumps([{"instruction": "x", "input": "", "output": "y"}]))
    with pytest.raises(ConfigError, match=r"data\.json: is not what the run was given"):
        following(files, before)
    assert following(files, before, "data.path=data.json").attempt.number == 2


@pytest.mark.parametrize(
    "override",
    ["model.preset=560m", "model.overrides.num_layers=1", "data.seq_length=32", "data.template=none"],
)
def test_another_network_is_refused(files: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="but the run has trained with"):
        following(files, first(files), override)


def test_a_command_keeps_what_it_has_and_learns_its_attempt(files: Path) -> None:
    job = {**JOB, "task": "command", "command": ["{python}", "run.py"], "sync": ["run.py"]}
    for key in ("model", "data", "train"):
        del job[key]
    (files / "run.py").write_text("print()")
    (files / "job.yaml").write_text(yaml.safe_dump(job))
    before = first(files)
    (files / "run.py").write_text("print('mended')")
    plan = following(files, before)
    assert plan.origin == (0, 0) and plan.run_id == before.run_id
    env = plan.manifests["host1"].workers[0].env
    assert (env["ORCHESTRATE_ATTEMPT"], env["TORCHELASTIC_RESTART_COUNT"]) == ("2", "1")


def test_layouts_are_told_apart(files: Path) -> None:
    layouts = {
        saved_layout(first(files, *words))
        for words in (
            (),
            ("parallel.micro_batch_num=2",),  # of no matter to a shard
            ("parallel.optimizer_shard=true",),
            ("parallel.data_parallel=4", "parallel.model_parallel=1"),
            ("parallel.data_parallel=1", "parallel.pipeline_stage=2"),
        )
    }
    assert len(layouts) == 4


def test_a_program_that_goes_on_by_itself_is_the_one_that_was_launched(files: Path) -> None:
    """Whatever has become of its files here: somebody may be writing the next one, or have removed it."""
    (files / "program").mkdir()
    (files / "program/main.py").write_text("first")
    (files / "program/part.py").write_text("first")
    command = {"name": "own", "task": "command", "hosts": "host[1-2]", "devices_per_host": 2}
    (files / "job.yaml").write_text(
        yaml.safe_dump({**command, "command": ["{python}", "program/main.py"], "sync": ["program"]})
    )
    before = first(files)
    sent = before.manifests["host1"].inputs
    (files / "program/main.py").write_text("another one")
    by_hand = following(files, before)
    assert by_hand.manifests["host1"].inputs != sent
    assert needs_of(by_hand).shipped_bytes > 0
    by_itself = following(files, before, by_itself=True)
    assert by_itself.manifests["host2"].inputs == sent and by_itself.sources == before.sources
    assert by_itself.manifests["host1"].workers[0].env["TORCHELASTIC_RESTART_COUNT"] == "1"
    for path in ("program/main.py", "program/part.py"):
        (files / path).unlink()
    (files / "program").rmdir()
    with pytest.raises(ConfigError, match="no such file"):
        load_job_again(before.job)
    job = load_job_again(before.job, needs_files=False)
    gone = next_plan(by_itself, job, load_inventory(files / "inventory.yaml"), by_itself=True)
    assert gone.manifests["host1"].inputs == sent and gone.attempt.number == 3
    assert needs_of(gone).shipped_bytes == 0


@pytest.mark.parametrize("is_beside", [False, True], ids=["named", "beside the weights"])
def test_a_training_that_goes_on_by_itself_keeps_the_code_and_the_data_that_it_has(
    files: Path, is_beside: bool
) -> None:
    """Its hosts have them by their hashes: what is in their place here now is another run's."""
    (files / "old.ckpt").write_text("weights")
    (files / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    words = ["checkpoint.load=old.ckpt"] if is_beside else ["data.tokenizer=tokenizer.json"]
    before = first(files, *words)
    data, folder = json.loads((files / "data.json").read_text()), "load" if is_beside else "tokenizer"
    assert worker(before)["data"]["tokenizer"] == f"inputs/{folder}/tokenizer.json"
    sent = {item.path: item for item in before.manifests["host1"].inputs}
    sent.pop("inputs/load/old.ckpt", None)
    (files / "data.json").write_text(json.dumps([*data, *data]))
    with pytest.raises(ConfigError, match="is not what the run was given"):
        following(files, before)
    for name in ("data.json", "tokenizer.json", "old.ckpt"):
        (files / name).unlink()
    job = load_job_again(before.job, needs_files=False)
    plan = next_plan(before, job, load_inventory(files / "inventory.yaml"), by_itself=True)
    again = next_plan(plan, job, load_inventory(files / "inventory.yaml"), by_itself=True)
    for each, number in ((plan, 2), (again, 3)):
        assert {item.path: item for item in each.manifests["host2"].inputs} == sent
        assert each.sources.keys() == {item.sha256 for item in sent.values()}
        was, now = worker(before), worker(each)
        assert now["checkpoint"].pop("load") == f"attempts/{number}/load" and now["checkpoint"].pop("resume")
        was["checkpoint"].pop("load"), was["checkpoint"].pop("resume")
        assert now == was


def test_one_that_begins_anew_by_itself_does_so_with_what_it_has(files: Path) -> None:
    """It failed before its first save."""
    (files / "old.ckpt").write_text("weights")
    (files / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    before = first(files, "checkpoint.load=old.ckpt")
    for name in ("data.json", "tokenizer.json", "old.ckpt"):
        (files / name).unlink()
    job = load_job_again(before.job, needs_files=False)
    inventory = load_inventory(files / "inventory.yaml")
    plan = next_plan(before, job, inventory, by_itself=True, fresh=True)
    assert plan.origin == (0, 0) and worker(plan) == worker(before)
    assert plan.manifests["host1"].inputs == before.manifests["host1"].inputs
    # Once it has gone on from a step of its own nobody here has what it began with.
    resumed = next_plan(before, job, inventory, by_itself=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        next_plan(resumed, job, inventory, by_itself=True, fresh=True)
