"""What a run of MindFormers begins with: the files of each host, the words of its run YAML, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from orchestrator import api
from orchestrator.agent.content_store import Store
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt, write_safetensors
from orchestrator.cli.cmd_distribute_ckpt import command
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.core.errors import CheckpointError, ConfigError, OrchestrateError
from orchestrator.core.paths import Workdir
from orchestrator.hosts.fleet import fleet_of
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.next_plan import next_plan
from orchestrator.transfer.distribute_launch import with_shards
from tests.transfer.mindformers_folder import saved_by_mindformers, strategies_of_two, tensors
from tests.transfer.mindformers_run import weights

PYTHON = Path(__file__).parents[2] / ".venv-mindformers/bin/python"
WHOLE = {"parallel": {"parallel_mode": 0}}
CUT = {"parallel": {"parallel_mode": 1}, "parallel_config": {"model_parallel": 2, "data_parallel": 1}}


class Job:
    """A job of two hosts with a rank each, and checkpoints that lie beside it."""

    def __init__(self, folder: Path, run: Mapping[str, Any], **host: Any) -> None:
        self.folder, self.run = folder, run
        inventory = {
            "transport": "local",
            "defaults": {"workdir": str(folder / "hosts/{name}"), "devices": "0", **host},
            "hosts": [{"name": "host[1-2]"}],
        }
        (folder / "inventory.yaml").write_text(yaml.safe_dump(inventory))
        self.inventory = load_inventory(folder / "inventory.yaml")

    def write(self, **checkpoint: Any) -> Path:
        network = {"model_config": {"type": "LlamaConfig"}}
        base = {"model": network, "trainer": {"type": "any"}, "load_checkpoint": "", "auto_trans_ckpt": True}
        (self.folder / "run.yaml").write_text(yaml.safe_dump({**base, **self.run}))
        job = {
            "name": "demo",
            "task": "mindformers",
            "devices_per_host": 1,
            "device_target": "CPU",
            "networking": {"mode": "dynamic"},
            "mindformers": {"config": "run.yaml"},
            "checkpoint": {"load": "saved", "distribute": True, **checkpoint},
        }
        (self.folder / "job.yaml").write_text(yaml.safe_dump(job))
        return self.folder / "job.yaml"

    def sent(self, **checkpoint: Any) -> LaunchPlan:
        """The plan of a launch, once everything has been sent."""
        job = load_job(self.write(**checkpoint))
        plan = make_plan(job, self.inventory, now=1.0)
        with fleet_of(plan.hosts, plan.ssh) as fleet:
            return with_shards(job, plan, fleet=fleet)

    def placed(self, plan: LaunchPlan, host: str) -> dict[str, Path]:
        """What the workers of a host find in the folder that they load from."""
        workdir = Workdir(self.folder / "hosts" / host)
        home = workdir.run(plan.run_id).root
        for item in plan.manifests[host].inputs:
            if item.path.startswith("inputs/load/"):
                Store(workdir.store).place(item, home)
        return {
            str(path.relative_to(home / "inputs/load")): path
            for path in sorted((home / "inputs/load").rglob("*"))
            if path.is_file()
        }


def saved_with(folder: Path, run: Mapping[str, Any]) -> None:
    (folder / "saved/mindformers.yaml").write_text(yaml.safe_dump(dict(run)))


def same(path: Path, wanted: Mapping[str, Any]) -> None:
    found = read_ckpt(path)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name].array(), value, err_msg=name)


def test_replicas_get_the_newest_step_by_what_files_say_and_go_on(tmp_path: Path) -> None:
    job = Job(tmp_path, WHOLE)
    saved_by_mindformers(tmp_path, 9, 15)
    saved_with(tmp_path, WHOLE)
    # The newest by name of rank 0's folder is none: it is cut short.
    path = tmp_path / "saved/checkpoint/rank_0/llama_rank_0-2_6.ckpt"
    path.write_bytes((tmp_path / "saved/checkpoint/rank_0/llama_rank_0-2_5.ckpt").read_bytes()[:-9])
    plan = job.sent(resume=True)
    words = yaml.safe_load(plan.run_yaml)
    assert (words["load_checkpoint"], words["resume_training"]) == ("./inputs/load", "llama_rank_0-2_5.ckpt")
    assert (words["load_ckpt_format"], words["auto_trans_ckpt"]) == ("ckpt", False)
    for rank, host in enumerate(("host1", "host2")):
        ((name, file),) = job.placed(plan, host).items()
        assert name == f"rank_{rank}/llama_rank_{rank}-2_5.ckpt"
        same(file, dict(tensors(15)))
    assert any("step 15" in note for note in plan.notes), plan.notes


def test_who_begins_with_weights_gets_nothing_else(tmp_path: Path) -> None:
    job = Job(tmp_path, WHOLE)
    saved_by_mindformers(tmp_path, 15, suffix="safetensors")
    saved_with(tmp_path, WHOLE)
    plan = job.sent()
    words = yaml.safe_load(plan.run_yaml)
    assert (words["resume_training"], words["load_ckpt_format"]) == (False, "safetensors")
    ((name, file),) = job.placed(plan, "host2").items()
    assert name == "rank_1/llama_rank_1-2_5.safetensors"
    assert (
        file.stat().st_size
        < (tmp_path / "saved/checkpoint/rank_0/llama_rank_0-2_5.safetensors").stat().st_size / 2
    )


def test_ranks_that_are_cut_get_their_own_file_where_the_layout_is_the_job_s(tmp_path: Path) -> None:
    job = Job(tmp_path, CUT)
    saved_by_mindformers(tmp_path, 15, halves=True)
    with pytest.raises(CheckpointError, match="does not say in which layout it is") as caught:
        job.sent(resume=True)
    assert "mindformers.yaml" in caught.value.remedy and "checkpoint.strategy" in caught.value.remedy
    saved_with(tmp_path, {**CUT, "parallel_config": {"model_parallel": 1, "data_parallel": 2}})
    with pytest.raises(CheckpointError, match="2 ranks in another layout"):
        job.sent(resume=True)
    saved_with(tmp_path, CUT)
    plan = job.sent(resume=True)
    for rank, host in enumerate(("host1", "host2")):
        ((name, file),) = job.placed(plan, host).items()
        assert name == f"rank_{rank}/llama_rank_{rank}-2_5.ckpt"
        same(file, dict(tensors(15, rank, halves=True)))
    os.unlink(tmp_path / "saved/checkpoint/rank_1/llama_rank_1-2_5.ckpt")
    with pytest.raises(CheckpointError, match="no file of rank 1"):
        job.sent(resume=True)


def test_another_layout_is_cut_anew_by_strategies(tmp_path: Path) -> None:
    saved_by_mindformers(tmp_path, 9, 15, halves=True)
    strategies_of_two(tmp_path / "saved/strategy")
    # Into whole files, on which each rank goes on,
    plan = Job(tmp_path, WHOLE).sent(resume=True)
    ((name, file),) = Job(tmp_path, WHOLE).placed(plan, "host2").items()
    same(file, dict(tensors(15)))
    assert yaml.safe_load(plan.run_yaml)["resume_training"] == os.path.basename(name).replace(
        "rank_1", "rank_0"
    )
    # and whole files into slices.
    whole = tmp_path / "whole.ckpt"
    write_ckpt(whole, tensors(15))
    job = Job(tmp_path, CUT)
    with pytest.raises(CheckpointError, match=r"whole tensors, .*only_save_strategy") as caught:
        job.sent(load="whole.ckpt", resume=True)
    assert "checkpoint.strategy" in caught.value.remedy
    strategies_of_two(tmp_path / "wanted")
    plan = job.sent(load="whole.ckpt", resume=True, strategy="wanted")
    for rank, host in enumerate(("host1", "host2")):
        files = job.placed(plan, host)
        assert len(files) == 1
        same(next(iter(files.values())), dict(tensors(15, rank, halves=True)))


def test_ranks_whose_cut_nothing_tells_are_refused(tmp_path: Path) -> None:
    job = Job(tmp_path, WHOLE)
    saved_by_mindformers(tmp_path, 15, halves=True)
    with pytest.raises(CheckpointError, match="nothing says how they are cut"):
        job.sent(resume=True)


def change_nothing(path: Path) -> None:
    write_ckpt(path, weights(3).items())


def without_step(path: Path) -> None:
    write_ckpt(path, [each for each in tensors(3) if each[0] != "step_num"])


def of_hugging_face(path: Path) -> None:
    write_ckpt(path, [*tensors(3), ("model.embed_tokens.weight", np.ones((2, 2), np.float32))])


def damaged(path: Path) -> None:
    write_ckpt(path, tensors(3))
    path.with_name(path.name + ".sum").write_text("{}")
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(content[: len(content) // 2]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (change_nothing, "holds no optimizer's state .*--with-optimizer"),
        (without_step, "holds no step_num, from which MindFormers goes on"),
        (of_hugging_face, r"holds model.embed_tokens.weight, a name of Hugging Face's"),
        (damaged, "damaged|ends|cut"),
    ],
)
def test_a_whole_file_that_would_be_loaded_wrong_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    job = Job(tmp_path, WHOLE)
    make(tmp_path / "whole.ckpt")
    with pytest.raises(CheckpointError, match=message):
        job.sent(load="whole.ckpt", resume=True)
    assert not (tmp_path / "hosts/host1/store").exists()


ITERATION = {**WHOLE, "use_legacy_format": False, "resume_training": True}


def iteration(folder: Path, number: int, *, total: int = 2) -> Path:
    home = folder / f"saved/iteration_{number:08d}"
    home.mkdir(parents=True)
    names = [
        f"{kind}-{each:07d}-{total:07d}.safetensors" for kind in ("model", "opt") for each in range(total)
    ]
    for name in names:
        write_safetensors(home / name, [("w", np.ones(4, np.float32))])
    (home / "common.json").write_text(json.dumps({"step_num": number}))
    (home / "metadata.json").write_text(json.dumps({"files": names}))
    return home


def test_all_of_an_iteration_goes_to_each_host(tmp_path: Path) -> None:
    iteration(tmp_path, 10)
    torn = iteration(tmp_path, 20)
    next(torn.glob("model-0000001*")).unlink()
    job = Job(tmp_path, WHOLE)
    with pytest.raises(CheckpointError, match=r"checkpoint 2.0, .*use_legacy_format: False"):
        job.sent()
    job = Job(tmp_path, ITERATION)
    plan = job.sent()
    words = yaml.safe_load(plan.run_yaml)
    assert (words["load_checkpoint"], words["resume_training"]) == ("./inputs/load", True)
    for host in ("host1", "host2"):
        found = job.placed(plan, host)
        assert sorted(found) == sorted(
            path.name for path in (tmp_path / "saved/iteration_00000010").iterdir()
        )
    assert any("iteration 20 is newer but not whole" in note for note in plan.notes)
    saved_by_mindformers(tmp_path, 15)
    with pytest.raises(CheckpointError, match=r"is no checkpoint 2\.0"):
        job.sent(load="saved/checkpoint")


def test_what_the_run_yaml_loads_itself_is_a_contradiction(tmp_path: Path) -> None:
    saved_by_mindformers(tmp_path, 15)
    with pytest.raises(ConfigError, match=r"load_checkpoint: is loaded, but .*distributes 'saved'"):
        Job(tmp_path, {**WHOLE, "load_checkpoint": "/weights"}).sent()


def test_an_attempt_that_begins_anew_is_given_it_again_and_one_that_goes_on_is_not(tmp_path: Path) -> None:
    job = Job(tmp_path, WHOLE)
    saved_by_mindformers(tmp_path, 15)
    saved_with(tmp_path, WHOLE)
    before = job.sent(resume=True)
    loaded = load_job(tmp_path / "job.yaml")
    for fresh in (True, False):
        plan = next_plan(before, loaded, job.inventory, fresh=fresh, by_itself=True)
        every = [item.path for manifest in plan.manifests.values() for item in manifest.inputs]
        assert not [path for path in every if path.startswith("inputs/load/")]
        words = yaml.safe_load(plan.run_yaml)
        assert words["load_checkpoint"] == ("" if fresh else "./attempts/2/load")
    plan = next_plan(before, loaded, job.inventory, fresh=True, by_itself=True)
    with fleet_of(plan.hosts, plan.ssh) as fleet:
        again = with_shards(loaded, plan, fleet=fleet)
    assert yaml.safe_load(again.run_yaml)["load_checkpoint"] == "./inputs/load"
    assert {each.path for each in again.manifests["host2"].inputs} >= {
        "inputs/load/rank_1/llama_rank_1-2_5.ckpt"
    }
    assert dataclasses.replace(again, notes=()).attempt.number == 2


def test_the_command_sends_what_a_launch_then_finds(tmp_path: Path) -> None:
    job = Job(tmp_path, {**WHOLE, "resume_training": True})
    saved_by_mindformers(tmp_path, 15)
    saved_with(tmp_path, WHOLE)
    words = [str(tmp_path / "saved"), "--job", str(job.write()), "-i", str(tmp_path / "inventory.yaml")]

    def run(*more: str) -> Any:
        done = CliRunner().invoke(command, [*words, *more], standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return done

    lines = [line.split() for line in run("--dry-run").stdout.splitlines()]
    assert [line[:2] for line in lines[1:3]] == [["host1", "0"], ["host2", "1"]]
    assert not (tmp_path / "hosts").exists()
    first = json.loads(run("--json").stdout)
    again = json.loads(run("--json").stdout)
    size = (tmp_path / "saved/checkpoint/rank_0/llama_rank_0-2_5.ckpt").stat().st_size
    assert first == {host: {"sent": size, "had": 0} for host in ("host1", "host2")}
    assert again == {host: {"sent": 0, "had": size} for host in ("host1", "host2")}


def test_a_run_yaml_beside_the_ranks_is_read_within_bounds(tmp_path: Path) -> None:
    job = Job(tmp_path, WHOLE)
    saved_by_mindformers(tmp_path, 9)
    with (tmp_path / "saved/mindformers.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"mindformers\.yaml: is larger than"):
        job.sent(resume=True)


@pytest.mark.skipif(not PYTHON.exists(), reason=f"no MindFormers: {PYTHON} is not there (make test makes it)")
def test_what_a_launch_took_of_the_checkpoint_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where nothing can be kept no run begins, and what was taken was told before that.
    (tmp_path / "state").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    job = Job(tmp_path, WHOLE, python=str(PYTHON))
    saved_by_mindformers(tmp_path, 9, 15)
    saved_with(tmp_path, WHOLE)
    said: list[str] = []
    with pytest.raises((OSError, OrchestrateError)):
        api.start(api.plan(job.write(resume=True), tmp_path / "inventory.yaml"), tell=said.append)
    assert any("step 15" in line for line in said), said
