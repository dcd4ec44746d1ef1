from __future__ import annotations

import re

import pytest

from model.config.settings import Worker, load_settings
from model.errors import ModelError
from orchestrator.config.worker_config import Train
from orchestrator.core.errors import ConfigError
from tests.model.support.cluster import write_job


def plain(path, section, text):
    """The file with a line in a section as people write it: PyYAML would put quotes around 1e-3."""
    path.write_text(path.read_text().replace(f"{section}:\n", f"{section}:\n  {text}\n", 1))
    return path


def test_numbers_as_yaml_writes_them(tmp_path):
    path = write_job(tmp_path, train={"learning_rate": 1, "steps": 4.0}, predict=None)
    path.write_text(path.read_text().replace("learning_rate: 1\n", "learning_rate: 1e-3\n"))
    settings = load_settings(path)
    assert settings.train.learning_rate == 1e-3 and settings.train.steps == 4
    assert settings.network().seq_length == 64


def test_a_loss_scale_is_a_word_or_a_number(tmp_path):
    for written, read in (("dynamic", "dynamic"), ("1024", 1024.0), ("1e3", 1000.0), ("null", None)):
        path = plain(write_job(tmp_path), "train", f"loss_scale: {written}")
        assert load_settings(path).train.loss_scale == read


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
        ({"train": {"stepz": 1}}, "train.stepz: unknown key (did you mean `steps`?)"),
        ({"train": {"batch_size": "many"}}, "train.batch_size: expected a whole number, got 'many'"),
        ({"train": {"batch_size": 1.5}}, "train.batch_size: expected a whole number, got 1.5"),
        ({"train": {"steps": None}}, "train.steps: is missing (give steps or epochs)"),
        ({"train": {"epochs": 2}}, "train.epochs: is given beside train.steps"),
        ({"train": {"steps": None, "epochs": 0}}, "train.epochs: must be greater than 0, got 0"),
        ({"train": {"beta2": 1.0}}, "train.beta2: must be less than 1, got 1.0"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate: must be greater than 0, got 0"),
        (
            {"train": {"learning_rate": float("nan")}},
            "train.learning_rate: expected a finite number, got nan",
        ),
        ({"train": {"clip_grad": -1}}, "train.clip_grad: must be at least 0, got -1"),
        ({"train": {"gradient_accumulation": 3}}, "must be a multiple of gradient_accumulation 3, got 4"),
        (
            {"train": {"loss_scale": "big"}},
            "train.loss_scale: expected dynamic or a number above 0, got 'big'",
        ),
        ({"train": {"loss_scale": 0}}, "train.loss_scale: expected dynamic or a number above 0, got 0"),
        ({"train": {"loss_mask": "all"}}, "train.loss_mask: expected one of label, input; got 'all'"),
        ({"data": {"limit": 0}}, "data.limit: must be greater than 0, got 0"),
        ({"device_target": "GPU"}, "device_target: expected one of CPU, Ascend; got 'GPU'"),
        ({"jit_level": "O2"}, "jit_level: O2 gives the whole graph to GE"),
        ({"train": {"deterministic": "yes"}}, "train.deterministic: expected true or false, got 'yes'"),
        ({"checkpoint": {"keep": 0}}, "checkpoint.keep: must be greater than 0, got 0"),
        ({"parallel": {"link_timeout": 0}}, "parallel.link_timeout: must be greater than 0, got 0"),
        ({"data": [1]}, "data: expected a mapping of keys to values, got a list"),
        ({"predict": {"prompts": "why"}}, "predict.prompts: expected a list, got 'why'"),
        ({"model": {"preset": None}}, "model.preset: expected text, got nothing"),
        ({"model": [1]}, "model: expected a mapping"),
        ({"taks": "chat"}, "taks: unknown key (did you mean `task`?)"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(tmp_path, sections, message):
    path = write_job(tmp_path, **sections)
    (line,) = problems(path)
    where, key = re.fullmatch(r"(.*:\d+): ([\w.]+): .*", line).groups()
    assert message in line
    name, _, number = where.rpartition(":")
    assert (
        name == str(path) and f"{key.rpartition('.')[2]}:" in path.read_text().splitlines()[int(number) - 1]
    )


def problems(path):
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert caught.value.exit_code == 2
    return caught.value.lines()


def test_every_problem_is_named(tmp_path):
    path = write_job(tmp_path, train={"beta2": 1.0, "learning_rate": 0}, data={"limit": "x"})
    assert [line.split(": ")[1] for line in problems(path)] == [
        "data.limit",
        "train.beta2",
        "train.learning_rate",
    ]
    path.write_text(f"{path.read_text()}task: chat\n")
    assert any("task: is given twice" in line for line in problems(path))


def test_sections_that_a_task_does_not_need_are_missing_or_null(tmp_path):
    path = tmp_path / "worker.yaml"
    path.write_text(
        "task: chat\nmodel: {preset: tiny}\ndata: null\nchat: {top_k: 5}\ncheckpoint: {load: x}\n"
    )
    settings = load_settings(path)
    assert (settings.data.seq_length, settings.network().seq_length) == (None, 64), "the model's own length"
    assert (settings.chat.top_k, settings.train) == (5, Train())
    path.write_text("task: predict\n")
    with pytest.raises(ModelError, match=r"model: is missing \(name a preset"):
        load_settings(path).network()


def test_the_environment_says_which_worker_this_is():
    assert Worker.from_environment({}) == Worker(0, 1, 0, False)
    env = {"RANK_ID": "3", "RANK_SIZE": "4", "DEVICE_ID": "1", "MS_ROLE": "MS_WORKER"}
    assert Worker.from_environment(env) == Worker(3, 4, 1, False)
    assert Worker.from_environment({"RANK_SIZE": "4", "MS_ROLE": "MS_SCHED"}).is_scheduler
    with pytest.raises(ModelError, match="RANK_ID is 4, but RANK_SIZE is 4"):
        Worker.from_environment({"RANK_ID": "4", "RANK_SIZE": "4"})
    with pytest.raises(ModelError, match="RANK_ID must be a whole number, not 'x'"):
        Worker.from_environment({"RANK_ID": "x"})
