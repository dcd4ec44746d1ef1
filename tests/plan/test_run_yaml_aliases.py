"""Run YAMLs of MindFormers with anchors: what is set for an attempt changes no other key."""

import textwrap
from pathlib import Path

import pytest
import yaml

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job, load_job_again
from orchestrator.core.errors import ConfigError
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan
from tests.plan.test_mindformers_run import RUN, files, planned

__all__ = ["files"]


def test_an_alias_of_what_is_set_for_an_attempt_keeps_its_value_and_it_is_said(files: Path) -> None:
    """A name in `model` became the folder of the attempt with `load_checkpoint`: another network, refused."""
    text = yaml.safe_dump({key: value for key, value in RUN.items() if key != "model"}, sort_keys=False)
    text += textwrap.dedent("""\
        load_checkpoint: &ck "/data/w.ckpt"
        model:
          model_config: {type: LlamaConfig, checkpoint_name_or_path: *ck}
        use_parallel: &many False
        moe_config: {of_mine: *many}
        """)
    planned(files)
    (files / "run.yaml").write_text(text)
    inventory = load_inventory(files / "inventory.yaml")
    before = make_plan(load_job(files / "job.yaml"), inventory, now=1.0)
    first = yaml.safe_load(before.run_yaml)
    assert (first["use_parallel"], first["moe_config"]) == (True, {"of_mine": False})
    assert "load_checkpoint: &ck" in before.run_yaml and "checkpoint_name_or_path: *ck" in before.run_yaml
    told = "is set for the attempt: {}, alias of what was there, keeps that, written out"
    goes_on = told.replace("the attempt", "an attempt that goes on")
    kept = "model.model_config.checkpoint_name_or_path"
    assert f"load_checkpoint {goes_on.format(kept)}" in before.notes
    assert f"use_parallel {told.format('moe_config.of_mine')}" in before.notes
    job = load_job_again(before.job)
    for by_itself in (False, True):
        plan = next_plan(before, job, inventory, by_itself=by_itself)
        now = yaml.safe_load(plan.run_yaml)
        assert now["load_checkpoint"] == "./attempts/2/load"
        assert now["model"]["model_config"]["checkpoint_name_or_path"] == "/data/w.ckpt"
    assert f"load_checkpoint {told.format(kept)}" in next_plan(before, job, inventory).notes


def test_what_no_restart_could_be_told_is_refused_at_launch(files: Path) -> None:
    text = yaml.safe_dump(RUN, sort_keys=False) + "mine: &c {save_max: 3}\ncheckpoint: *c\n"
    planned(files)
    (files / "run.yaml").write_text(text)
    job, inventory = load_job(files / "job.yaml"), load_inventory(files / "inventory.yaml")
    with pytest.raises(ConfigError) as caught:
        make_plan(job, inventory, now=1.0)
    line = text.splitlines().index("checkpoint: *c") + 1
    assert [str(one).replace(f"{files}/", "") for one in caught.value.problems] == [
        f"run.yaml:{line}: checkpoint: cannot be set: checkpoint is an alias, of another key's value, and an "
        "attempt that goes on needs its own checkpoint.load_path (write checkpoint out, with a line for each "
        "key)"
    ]
    # Where nothing is saved there is nothing to go on from.
    (files / "run.yaml").write_text(text.replace("CheckpointMonitor", "MFLossMonitor"))
    make_plan(job, inventory, now=1.0)
