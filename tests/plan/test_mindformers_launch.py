"""What no run of MindFormers survives is said before it starts."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config.inventory_file import load_inventory
from orchestrator.config.job_file import load_job_again
from orchestrator.plan.next_plan import next_plan
from tests.plan.test_mindformers_run import Path, files, planned, problems, section

__all__ = ["files"]

TRANSFORMS = {"auto_trans_ckpt": True, "load_checkpoint": "/w"}
ALONE = {"host_count": 1, "devices_per_host": 2}
CUT = {"parallel_config": {"model_parallel": 2}}
SHARED = (
    "auto_trans_ckpt: needs an output folder that all 2 hosts share, and each host has its own here "
    "(write False, and cut the checkpoint for this layout before: orchestrate checkpoint transform"
)
NOTHING = "auto_trans_ckpt: has nothing to transform: load_checkpoint is empty"


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (TRANSFORMS, SHARED),
        ({"auto_trans_ckpt": True, "load_checkpoint": "", "pretrained_model_dir": "/m"}, SHARED),
        ({**TRANSFORMS, "parallel": {"parallel_mode": 2}, "parallel_config": {}}, SHARED),
        ({"auto_trans_ckpt": True, "load_checkpoint": ""}, NOTHING),
        ({"auto_trans_ckpt": True, "run_mode": "predict"}, NOTHING),
    ],
)
def test_a_transformation_that_mindformers_refuses_is_refused_before(
    files: Path, run: dict[str, Any], said: str
) -> None:
    [told] = problems(files, run)
    written = (files / "run.yaml").read_text().splitlines()
    line = next(number for number, text in enumerate(written, 1) if text.startswith("auto_trans_ckpt"))
    assert told.startswith(f"run.yaml:{line}: {said}")


def test_what_the_job_sets_is_refused_at_its_place(files: Path) -> None:
    [told] = problems(files, {"load_checkpoint": "/w"}, section(set={"auto_trans_ckpt": True}))
    assert told.startswith("job.yaml:7: mindformers.set.") and SHARED in told


def test_a_transformation_on_one_host_is_the_jobs(files: Path) -> None:
    assert "auto_trans_ckpt: true" in planned(files, {**TRANSFORMS, **CUT}, ALONE).run_yaml
    assert planned(files, {**TRANSFORMS, "auto_trans_ckpt": False}).run_yaml
    named = {"model": {"model_config": {"type": "LlamaConfig", "checkpoint_name_or_path": "/w.ckpt"}}}
    assert planned(files, {"auto_trans_ckpt": True, **CUT, **named}, ALONE).run_yaml


def test_storage_that_hosts_share_has_a_folder_for_each_of_them(files: Path) -> None:
    """MindFormers believes what SHARED_PATHS says, and waits in its own folder for the others' marks."""
    [told] = problems(files, TRANSFORMS, {"env": {"SHARED_PATHS": "/w"}})
    assert SHARED in told


def test_a_transformation_needs_a_power_of_two_of_devices(files: Path) -> None:
    (files / "inventory.yaml").write_text((files / "inventory.yaml").read_text().replace("4-5", "0-5"))
    run = {"auto_trans_ckpt": True, "load_checkpoint": "/w", "parallel_config": {"model_parallel": 2}}
    six = {"host_count": 1, "devices_per_host": 6}
    [told] = problems(files, run, six)
    assert "auto_trans_ckpt: needs hosts of a power of two of devices, and here are 6" in told
    assert planned(files, {**run, "npu_num_per_node": 8}, six).run_yaml
    assert planned(files, {**run, "load_ckpt_format": "safetensors"}, six).run_yaml


WHOLE = {"load_checkpoint": "./hf", "load_ckpt_format": "safetensors"}


def test_whole_weights_for_several_ranks_are_refused_with_what_to_do(files: Path) -> None:
    (files / "hf").mkdir()
    (files / "hf/model-00001-of-00002.safetensors").write_text("")
    said = "run.yaml:23: load_checkpoint: holds whole weights, which MindFormers loads on"
    [told] = problems(files, WHOLE)
    assert told.startswith(
        f"{said} 4 ranks only by auto_trans_ckpt: True (that needs an output folder which "
    )
    assert "and each has its own: cut the checkpoint for this layout before" in told
    [told] = problems(files, {**WHOLE, **CUT}, ALONE)
    assert (
        "load_checkpoint: holds whole weights, which MindFormers loads on 2 ranks" in told
        and "(name the folder, and write auto_trans_ckpt: True)" in told
    )
    [told] = problems(files, {"pretrained_model_dir": "./hf", "load_ckpt_format": "safetensors"})
    assert "pretrained_model_dir: holds whole weights" in told
    for run, job in (
        ({**WHOLE, **CUT, "auto_trans_ckpt": True}, ALONE),
        ({**WHOLE, "parallel_config": {}}, {"host_count": 1, "devices_per_host": 1}),
        ({**WHOLE, "use_legacy_format": False}, {}),
        ({**WHOLE, "load_ckpt_format": "ckpt"}, {}),
    ):
        assert planned(files, run, job).run_yaml
    (files / "hf/rank_0").mkdir()
    assert planned(files, WHOLE).run_yaml


def test_one_file_of_weights_is_for_one_rank(files: Path) -> None:
    run = {**WHOLE, "load_checkpoint": "/w/model.safetensors"}
    [told] = problems(files, run)
    assert "load_checkpoint: is one file, and several ranks load only a folder, by auto_trans_ckpt" in told
    assert planned(files, {**run, "load_checkpoint": "/w/rank_0/a-1_2.safetensors"}).run_yaml


def keeping(most: int) -> dict[str, Any]:
    monitor = {"type": "CheckpointMonitor", "prefix": "llama", "keep_checkpoint_max": most}
    return {"callbacks": [{"type": "MFLossMonitor"}, monitor]}


def test_who_keeps_one_checkpoint_is_told_that_a_save_removes_it_first(files: Path) -> None:
    policy = {"restart": {"max": 1}}
    [note] = [note for note in planned(files, keeping(1), policy).notes if "keep_checkpoint_max" in note]
    assert "keep_checkpoint_max is 1: MindFormers removes the file before it writes the next" in note
    assert note.endswith("(keep 2 or more: --set mindformers.set.callbacks.1.keep_checkpoint_max=2)")
    assert "run.yaml:" in note
    mended = planned(files, keeping(1), policy, "mindformers.set.callbacks.1.keep_checkpoint_max=2")
    for plan in (mended, planned(files, keeping(2), policy), planned(files, keeping(1))):
        assert "keep_checkpoint_max" not in "".join(plan.notes)


def test_who_saves_nothing_is_told_where_a_restart_begins(files: Path) -> None:
    nothing = {"callbacks": [{"type": "MFLossMonitor"}]}
    said = "callbacks has no CheckpointMonitor: nothing is saved"
    assert any(note.endswith(said) for note in planned(files, nothing).notes)
    notes = planned(files, nothing, {"restart": {"max": 1}}).notes
    assert any(note.endswith(f"{said}, and every restart begins at step 1") for note in notes)


def test_an_attempt_that_goes_on_transforms_nothing(files: Path) -> None:
    before = planned(files, {**TRANSFORMS, **CUT}, ALONE)
    plan = next_plan(before, load_job_again(before.job), load_inventory(files / "inventory.yaml"))
    assert "auto_trans_ckpt: False" in plan.run_yaml or "auto_trans_ckpt: false" in plan.run_yaml
