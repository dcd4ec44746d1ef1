"""What MindFormers' own checkpoints are, and the words by which its next attempt loads them."""

import copy
import dataclasses
from pathlib import Path

import pytest
import yaml

from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job
from orchestrator.core.codec import from_json
from orchestrator.core.errors import CheckpointError, ConfigError
from orchestrator.core.iteration_answers import IterationList
from orchestrator.plan.launch_plan import LaunchPlan
from orchestrator.plan.make_plan import make_plan
from orchestrator.plan.mindformers_load import pointed
from orchestrator.transfer.mindformers_saves import (
    load_name,
    meta_notes,
    resume_words,
    saves_of,
)


def planned(folder: Path, run_yaml: str, *, devices: int = 2, task: str = "mindformers") -> LaunchPlan:
    inventory = {
        "transport": "local",
        "defaults": {"workdir": str(folder / "{name}"), "devices": "0-7"},
        "hosts": [{"name": "host[1-2]"}],
    }
    (folder / "inventory.yaml").write_text(yaml.safe_dump(inventory))
    job = {
        "name": "demo",
        "task": "command",
        "command": ["true"],
        "devices_per_host": devices,
        "host_count": 1,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump({**job, "networking": {"mode": "dynamic"}}))
    plan = make_plan(load_job(folder / "job.yaml"), load_inventory(folder / "inventory.yaml"), now=1.0)
    return dataclasses.replace(plan, task=task, run_yaml=run_yaml)


@pytest.mark.parametrize(
    ("run_yaml", "replicated", "needs_all"),
    [
        ("parallel: {parallel_mode: 0}", True, False),
        ("parallel: {parallel_mode: data_parallel}", True, False),
        ("parallel: {parallel_mode: 1}", False, False),
        ("parallel: {parallel_mode: STAND_ALONE}", False, False),
        ("parallel: {parallel_mode: 0, enable_parallel_optimizer: True}", False, False),
        ("{}", False, False),
        ("", False, False),
        ("parallel: [1", False, False),
        ("base: &base {parallel_mode: 0}\nparallel:\n  <<: *base\n  full_batch: False\n", True, False),
        (
            "parallel: {parallel_mode: 0}\ncallbacks: [{type: CheckpointMonitor, remove_redundancy: True}]",
            False,
            True,
        ),
        (
            "parallel: {parallel_mode: 0}\ncallbacks: [{type: CheckpointMonitor, remove_redundancy: False}]",
            True,
            False,
        ),
    ],
)
def test_only_plain_data_parallelism_makes_replicas(
    tmp_path: Path, run_yaml: str, replicated: bool, needs_all: bool
) -> None:
    found = saves_of(planned(tmp_path, run_yaml))
    assert found is not None and (found.replicated, found.needs_all) == (replicated, needs_all)


def test_a_rank_alone_has_all_and_other_tasks_are_not_asked(tmp_path: Path) -> None:
    found = saves_of(planned(tmp_path, "", devices=1))
    assert found is not None and found.replicated
    assert saves_of(planned(tmp_path, "parallel: {parallel_mode: 0}", task="command")) is None


def test_another_cut_is_another_layout_and_whole_files_fit_any(tmp_path: Path) -> None:
    def layout(text: str, devices: int = 2) -> tuple[object, ...]:
        found = saves_of(planned(tmp_path, text, devices=devices))
        assert found is not None
        return found.layout

    cut = "parallel: {parallel_mode: 1}\nparallel_config: {model_parallel: %d, data_parallel: %d}"
    assert layout(cut % (2, 1)) == layout(cut % (2, 1))
    assert layout(cut % (2, 1)) != layout(cut % (1, 2))
    assert layout(cut % (2, 1)) != layout(cut % (2, 1), devices=4)
    assert layout(cut % (2, 1)) == layout((cut % (2, 1)).replace("{m", "{micro_batch_num: 4, m"))
    whole = "parallel: {parallel_mode: 0}"
    assert layout(whole) == layout(whole, devices=4) == layout("", devices=1)


def file(name: str, rank: int = 0) -> ShardFile:
    return ShardFile(rank, 1, 10, 0, f"/w/runs/r/attempts/1/checkpoint/{name}")


@pytest.mark.parametrize(
    ("name", "loaded"),
    [
        ("rank_0/qwen3_rank_0-2_5.safetensors", "rank_3/qwen3_rank_3-2_5.safetensors"),
        ("rank_3/qwen3_rank_3_1-2_5.ckpt", "rank_3/qwen3_rank_3-2_5.ckpt"),
        ("rank_3/qwen3_rank_3-2_5_breakpoint.ckpt", "rank_3/qwen3_rank_3-2_5.ckpt"),
        (
            "ttp_saved_checkpoints-step_15/rank_0/ttp_rank_0-2_5.ckpt",
            "rank_3/ttp_rank_3-2_5.ckpt",
        ),
        # MindFormers takes what is behind the first point for the suffix.
        ("rank_3/qwen2.5_rank_3-2_5.ckpt", "rank_3/checkpoint_rank_3-2_5.ckpt"),
        ("rank_3/CKP-2_5.ckpt", "rank_3/checkpoint_rank_3-2_5.ckpt"),
    ],
)
def test_a_rank_loads_its_file_under_its_own_number(name: str, loaded: str) -> None:
    assert load_name(3, file(name), world_size=4) == loaded


def test_every_rank_is_told_the_one_file_and_not_to_look_for_others() -> None:
    files = {rank: file(f"rank_{rank}/llama_rank_{rank}-2_5.safetensors", rank) for rank in (0, 1)}
    assert resume_words(3, files, world_size=2) == {
        "load_checkpoint": "./attempts/3/load",
        "resume_training": "llama_rank_0-2_5.safetensors",
        "load_ckpt_format": "safetensors",
        "auto_trans_ckpt": False,
        "remove_redundancy": False,
    }
    assert resume_words(3, files, world_size=2, needs_all=True)["remove_redundancy"] is True
    # A replica in another's place says the same.
    assert resume_words(3, {0: files[0], 1: files[0]}, world_size=2) == resume_words(3, files, world_size=2)
    two = {**files, 1: file("rank_1/llama_rank_1-2_5.ckpt", 1)}
    with pytest.raises(CheckpointError, match="two formats: ckpt and safetensors"):
        resume_words(3, two, world_size=2)
    other = {**files, 1: file("rank_1/ttp_rank_1-2_5.safetensors", 1)}
    with pytest.raises(CheckpointError, match="differ in more than the rank"):
        resume_words(3, other, world_size=2)


def test_a_rank_alone_and_an_iteration_are_told_the_folder() -> None:
    alone = {0: file("rank_0/llama_rank_0-2_5.safetensors")}
    assert load_name(0, alone[0], world_size=1) == "hyper_param.safetensors"
    assert resume_words(2, alone, world_size=1)["resume_training"] is True
    legacy = {0: file("rank_0/llama_rank_0-2_5.ckpt")}
    assert resume_words(2, legacy, world_size=1)["resume_training"] == "llama_rank_0-2_5.ckpt"
    words = resume_words(2, None, world_size=8)
    assert (words["load_checkpoint"], words["resume_training"]) == ("./attempts/2/load", True)


RUN_YAML = """\
# what a person wrote
load_checkpoint: ''   # none yet
model:
  load_checkpoint: kept
resume_training: False
callbacks:
- resume_training: kept
"""


def test_the_words_replace_lines_at_the_top_and_nothing_else() -> None:
    text = pointed(
        RUN_YAML, {"load_checkpoint": "./attempts/2/load", "resume_training": "it's.ckpt", "x": True}
    )
    assert yaml.safe_load(text) == {
        "load_checkpoint": "./attempts/2/load",
        "model": {"load_checkpoint": "kept"},
        "resume_training": "it's.ckpt",
        "callbacks": [{"resume_training": "kept"}],
        "x": True,
    }
    assert text.startswith("# what a person wrote\n")
    assert pointed(text, {"x": True}) == text


@pytest.mark.parametrize(
    "section",
    [
        "checkpoint:\n    # of 2.0\n    load_path: /weights\n    save_max: 3\nrun_mode: train\n",
        "checkpoint:\n    save_max: 3\n\n    no_load_optim: True\nrun_mode: train\n",
        "run_mode: train\ncheckpoint:\n  save_max: 3",
    ],
)
def test_a_section_of_checkpoint_2_is_told_too(section: str) -> None:
    text = pointed(section, resume_words(2, None, world_size=8))
    said = yaml.safe_load(text)
    assert said["checkpoint"] == {"load_path": "./attempts/2/load", "no_load_optim": False, "save_max": 3}
    assert (said["run_mode"], said["resume_training"]) == ("train", True)


FILES = {0: file("rank_0/llama_rank_0-2_5.ckpt")}


@pytest.mark.parametrize(
    "text",
    [
        # An anchor that others need: the value changes, theirs does not.
        "load_ckpt_format: &f safetensors\ncheckpoint_format: *f\n",
        "resume_training: &r False\ncallbacks: [*r, {only: *r}]\n",
        "load_checkpoint: &ck\n  /data/w.ckpt\nmodel: {name: *ck}\n",
        "checkpoint: &c\n  save_max: 3\nother:\n  <<: *c\n  x: 1\n",
        # Forms in which a key at the beginning or end of a line is no key of the root.
        "  run_mode: train\n  seed: 1\n",
        "{run_mode: train, seed: 1}\n",
        "{\n  run_mode: train\n}\n",
        "{}\n",
        "run_mode: train\n...\n",
        "---\nrun_mode: train\n... # the end\n",
        "load_checkpoint:\n  /data/w.ckpt\nresume_training:\n  # not yet\n  False\nseed: 1\n",
        "load_checkpoint: 'a\n  b'\nseed: 1\n",
        "load_checkpoint: |\n  /data/w.ckpt\nseed: 1\n",
        "seed: 1\nload_checkpoint:",
        "seed: 1\r\nload_checkpoint: ''\r\n",
        # Sections that are not a line for each key.
        "checkpoint: {save_max: 3}\n",
        "checkpoint: &a\n  {save_max: 3}\nother: *a\n",
        "{checkpoint: {save_max: 3}}\n",
    ],
)
@pytest.mark.parametrize("sources", [FILES, None], ids=["files", "iteration"])
def test_however_it_is_written_the_words_are_read_and_all_else_is_as_it_was(
    text: str, sources: dict[int, ShardFile] | None
) -> None:
    words = resume_words(2, sources, world_size=8)
    before = yaml.safe_load(text)
    expected = {**copy.deepcopy(before), **words}
    if "checkpoint" in before:
        loads = {"load_path": "./attempts/2/load", "no_load_optim": False}
        expected["checkpoint"] = {**before["checkpoint"], **loads}
    assert yaml.safe_load(pointed(text, words)) == expected


def test_a_section_that_is_an_alias_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mindformers.yaml:2: checkpoint: cannot be set"):
        pointed("c: &c {save_max: 3}\ncheckpoint: *c\n", resume_words(2, None, world_size=8))


def test_a_meta_json_that_says_something_else_is_told_and_not_believed() -> None:
    rows = [
        {"rank": 0, "file": "llama_rank_0-2_5.ckpt", "exists": True},
        {"rank": 1, "file": "llama_rank_1-2_9.ckpt", "exists": False},
        {"rank": 2, "file": None},
        {"rank": 3, "file": "llama_rank_3-2_6.ckpt", "exists": True},
    ]
    listed = {"b": from_json(IterationList, {"metas": rows}), "a": IterationList()}
    files = [file(f"rank_{rank}/llama_rank_{rank}-2_5.ckpt", rank) for rank in range(4)]
    assert meta_notes(listed, files) == [
        "b: meta.json of rank 1 names llama_rank_1-2_9.ckpt, which is not there, of rank 2 cannot be read, "
        "of rank 3 names llama_rank_3-2_6.ckpt: not believed"
    ]
