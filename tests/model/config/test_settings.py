from __future__ import annotations

import pytest

from model.config.settings import Worker, load_settings
from model.errors import ModelError
from tests.model.support.cluster import write_job


def test_numbers_as_yaml_writes_them(tmp_path):
    settings = load_settings(write_job(tmp_path, train={"learning_rate": "1e-3", "steps": 4.0}, predict=None))
    assert settings.train.learning_rate == 1e-3 and settings.train.steps == 4
    assert settings.network().seq_length == 64


def test_a_loss_scale_is_a_word_or_a_number(tmp_path):
    for written, read in (("dynamic", "dynamic"), (1024, 1024.0), ("1e3", 1000.0), (None, None)):
        assert load_settings(write_job(tmp_path, train={"loss_scale": written})).train.loss_scale == read


@pytest.mark.parametrize(
    ("task", "said", "level"),
    [
        ("finetune", None, "O1"),
        ("pretrain", None, "O1"),
        ("predict", None, "O0"),
        ("chat", None, "O0"),
        ("finetune", "O0", "O0"),
        ("predict", "O1", "O1"),
    ],
)
def test_how_far_is_compiled_follows_the_task(tmp_path, task, said, level):
    path = write_job(tmp_path, task=task, jit_level=said, predict={"prompts": ["x"]}, chat={})
    assert load_settings(path).level == level


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"stepz": 1}}, "train: unknown key stepz"),
        ({"train": {"batch_size": "many"}}, "train: batch_size must be a whole number, not 'many'"),
        ({"train": {"steps": None}}, "give either steps or epochs"),
        (
            {"train": {"beta2": 1.0, "learning_rate": 0}},
            "learning_rate must be above 0, not 0.0; train: beta2",
        ),
        (
            {"train": {"gradient_accumulation": 3}},
            "batch_size 4 must be a multiple of gradient_accumulation 3",
        ),
        ({"train": {"loss_scale": "big"}}, "loss_scale must be dynamic or a number above 0, not 'big'"),
        ({"train": {"loss_scale": 0}}, "loss_scale must be dynamic or a number above 0, not 0.0"),
        ({"train": {"loss_mask": "all"}}, "loss_mask must be label or input, not 'all'"),
        ({"data": {"limit": 0}}, "limit must be at least 1"),
        ({"device_target": "GPU"}, "device_target must be CPU or Ascend"),
        ({"jit_level": "O2"}, "jit_level must be O0 or O1, not 'O2'"),
        ({"train": {"deterministic": "yes"}}, "train: deterministic must be true or false, not 'yes'"),
        ({"checkpoint": {"keep": 0}}, "save_steps and keep must be at least 1"),
        ({"data": [1]}, "data: must be a table"),
    ],
)
def test_every_problem_is_named(tmp_path, sections, message):
    with pytest.raises(ModelError) as caught:
        load_settings(write_job(tmp_path, **sections))
    assert message in str(caught.value) and str(caught.value).startswith(str(tmp_path / "worker.yaml"))


def test_the_environment_says_which_worker_this_is():
    assert Worker.from_environment({}) == Worker(0, 1, 0, False)
    env = {"RANK_ID": "3", "RANK_SIZE": "4", "DEVICE_ID": "1", "MS_ROLE": "MS_WORKER"}
    assert Worker.from_environment(env) == Worker(3, 4, 1, False)
    assert Worker.from_environment({"RANK_SIZE": "4", "MS_ROLE": "MS_SCHED"}).is_scheduler
    with pytest.raises(ModelError, match="RANK_ID is 4, but RANK_SIZE is 4"):
        Worker.from_environment({"RANK_ID": "4", "RANK_SIZE": "4"})
    with pytest.raises(ModelError, match="RANK_ID must be a whole number, not 'x'"):
        Worker.from_environment({"RANK_ID": "x"})
