"""Weights, tokenizer, network and token ids that do not fit together are refused before a host is touched."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.core.errors import ConfigError
from orchestrator.plan.launch_plan import LaunchPlan
from tests.config.support import lines_of
from tests.plan.test_make_plan import HOSTS, TRAIN, plan

LOCAL = "transport: local\ndefaults: {devices: 0-1}\nhosts: [{name: a}, {name: b}]\n"
LOAD = "checkpoint: {load: weights/w.ckpt}\n"
# The network that TRAIN asks for, in the three forms in which a folder of weights may say it.
TINY = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 512,
    "eos_token_id": 2,
    "hidden_act": "fast_gelu",
}
OF_MINDFORMERS = {"model": {"model_config": {"type": "BloomConfig", **TINY}}}
OF_HF = {
    "model_type": "bloom",
    "n_embed": 64,
    "n_layer": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "eos_token_id": 2,
}


def tokenizer(path: Path, *tokens: str, indent: int | None = None) -> Path:
    """A tokenizer.json whose vocabulary are these tokens in the order of their ids."""
    path.parent.mkdir(exist_ok=True)
    table = {"model": {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}}}
    path.write_text(json.dumps(table, indent=indent))
    return path


def weights(folder: Path) -> Path:
    """A folder with a checkpoint, whose content nobody looks at here."""
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "weights/w.ckpt").write_text("w")
    return folder / "weights"


def mindrecord(folder: Path, summary: dict[str, Any] | None) -> str:
    """A MindRecord with its summary, and the training that reads it."""
    for name in ("a.mindrecord", "a.mindrecord.db"):
        (folder / name).write_text(name)
    if summary is not None:
        (folder / "a.mindrecord.summary.json").write_text(json.dumps(summary))
    return TRAIN.replace("data.json", "a.mindrecord")


def told_tokenizer(made: LaunchPlan) -> str | None:
    found = yaml.safe_load(made.worker_config)["data"]["tokenizer"]
    assert found is None or isinstance(found, str)
    return found


def test_a_training_from_nothing_makes_its_own_tokenizer(tmp_path: Path) -> None:
    assert told_tokenizer(plan(tmp_path, TRAIN)) is None


def test_the_tokenizer_beside_the_weights_is_taken_and_told(tmp_path: Path) -> None:
    beside = tokenizer(weights(tmp_path) / "tokenizer.json", "a")
    tokenizer(tmp_path / "tokenizer.json", "a", "b")  # beside the data, but that comes second
    made = plan(tmp_path, mindrecord(tmp_path, None) + LOAD)
    assert told_tokenizer(made) == "inputs/load/tokenizer.json"
    assert f"data.tokenizer is not given: {beside} is taken" in made.notes


def test_else_that_beside_the_mindrecord(tmp_path: Path) -> None:
    weights(tmp_path)
    tokenizer(tmp_path / "tokenizer.json", "a")
    made = plan(tmp_path, mindrecord(tmp_path, None) + LOAD)
    assert told_tokenizer(made) == "inputs/data/tokenizer.json"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not JSON",
        "{}",
        '["a"]',
        '{"model": {"vocab": {}}}',
        '{"model": {"vocab": {"a": 0}',
        "version https://git-lfs",
    ],
    ids=["empty", "text", "bare", "list", "no-tokens", "torn", "pointer"],
)
def test_a_tokenizer_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    named = TRAIN.replace("data.json", "data.json, tokenizer: mine.json")
    (line,) = lines_of(tmp_path, lambda: plan(tmp_path, named))
    assert line.startswith("job.yaml:6: data.tokenizer: mine.json is no tokenizer.json")
    (weights(tmp_path) / "tokenizer.json").write_text(text)
    (line,) = lines_of(tmp_path, lambda: plan(tmp_path, TRAIN + LOAD))
    assert "checkpoint.load: weights/tokenizer.json is no tokenizer.json" in line


def test_else_the_job_is_refused(tmp_path: Path) -> None:
    folder = weights(tmp_path)
    tokenizer(tmp_path / "tokenizer.json", "a")  # of records in plain text it says nothing
    assert lines_of(tmp_path, lambda: plan(tmp_path, TRAIN + LOAD)) == [
        f"job.yaml:6: data.tokenizer: is missing, and there is no tokenizer.json beside {folder.name}/w.ckpt"
        " (name the one that the weights were trained with)"
    ]


def test_an_answering_job_takes_that_of_the_weights_and_makes_none(tmp_path: Path) -> None:
    weights(tmp_path)
    text = TRAIN.replace("finetune", "predict").replace("train: {steps: 4, batch_size: 2}\n", "")
    text += LOAD + "predict: {prompts: [hello]}\n"
    assert told_tokenizer(plan(tmp_path, text)) is None
    tokenizer(tmp_path / "weights/tokenizer.json", "a")
    assert told_tokenizer(plan(tmp_path, text)) == "inputs/load/tokenizer.json"


def test_what_only_the_hosts_see_is_left_to_them_and_told(tmp_path: Path) -> None:
    made = plan(tmp_path, TRAIN + "checkpoint: {load: /data/w.ckpt}\n")
    assert told_tokenizer(made) is None
    assert "the hosts take the tokenizer.json beside /data/w.ckpt" in made.notes[0]


def test_absolute_paths_are_seen_where_the_hosts_are_this_machine(tmp_path: Path) -> None:
    folder = weights(tmp_path)
    text = TRAIN + f"checkpoint: {{load: {folder}/w.ckpt}}\n"
    with pytest.raises(ConfigError, match=r"data\.tokenizer: is missing"):
        plan(tmp_path, text, LOCAL)
    beside = tokenizer(folder / "tokenizer.json", "a")
    assert told_tokenizer(plan(tmp_path, text, LOCAL)) == str(beside)


def test_a_resumed_run_goes_on_with_its_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "run/checkpoint").mkdir(parents=True)
    own = tokenizer(tmp_path / "run/model/tokenizer.json", "a")
    made = plan(tmp_path, TRAIN + f"checkpoint: {{load: {tmp_path}/run/checkpoint}}\n", LOCAL)
    assert told_tokenizer(made) == str(own)


def test_data_made_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    mine = tokenizer(tmp_path / "mine/tokenizer.json", "a", "b")
    sums = {"tokenizer_sha256": hashlib.sha256(b"another").hexdigest()}
    text = mindrecord(tmp_path, sums).replace("mindrecord}", "mindrecord, tokenizer: mine/tokenizer.json}")
    (line,) = lines_of(tmp_path, lambda: plan(tmp_path, text))
    assert line.startswith(
        "job.yaml:6: data.tokenizer: a.mindrecord was made with another tokenizer than mine/"
    )
    assert sums["tokenizer_sha256"][:12] in line
    # The same where it is the weights' own that the job takes.
    weights(tmp_path)
    tokenizer(tmp_path / "weights/tokenizer.json", "a", "b")
    with pytest.raises(ConfigError, match=r"checkpoint\.load: .*was made with another tokenizer"):
        plan(tmp_path, mindrecord(tmp_path, sums) + LOAD)
    sums["tokenizer_sha256"] = hashlib.sha256(mine.read_bytes()).hexdigest()
    mindrecord(tmp_path, sums)
    assert told_tokenizer(plan(tmp_path, text)) == "inputs/tokenizer/tokenizer.json"


def test_a_tokenizer_that_was_only_written_anew_is_the_same(tmp_path: Path) -> None:
    of_data = tokenizer(tmp_path / "tokenizer.json", "a", "b")
    tokenizer(tmp_path / "mine/tokenizer.json", "a", "b", indent=2)
    sums = {"tokenizer_sha256": hashlib.sha256(of_data.read_bytes()).hexdigest()}
    text = mindrecord(tmp_path, sums).replace("mindrecord}", "mindrecord, tokenizer: mine/tokenizer.json}")
    assert told_tokenizer(plan(tmp_path, text)) == "inputs/tokenizer/tokenizer.json"
    tokenizer(tmp_path / "mine/tokenizer.json", "b", "a")
    with pytest.raises(ConfigError, match="was made with another tokenizer"):
        plan(tmp_path, text)


def test_an_older_summary_names_no_tokenizer_and_is_taken(tmp_path: Path) -> None:
    tokenizer(tmp_path / "tokenizer.json", "a", "b")
    tokenizer(tmp_path / "mine/tokenizer.json", "b", "a")
    text = mindrecord(tmp_path, {"rows": 3}).replace(
        "mindrecord}", "mindrecord, tokenizer: mine/tokenizer.json}"
    )
    assert "gives tokens other ids" in plan(tmp_path, text).notes[0]


def test_data_prepared_with_another_template_are_told(tmp_path: Path) -> None:
    made = plan(tmp_path, mindrecord(tmp_path, {"template": "belle"}))
    (note,) = made.notes
    assert note.endswith("a.mindrecord was prepared with template belle, but data.template is alpaca")
    assert plan(tmp_path, mindrecord(tmp_path, {"template": "alpaca"})).notes == ()


def test_a_tokenizer_that_contradicts_that_of_the_weights_is_refused(tmp_path: Path) -> None:
    tokenizer(weights(tmp_path) / "tokenizer.json", "a", "b")
    text = TRAIN.replace("json}", "json, tokenizer: mine/tokenizer.json}") + LOAD
    tokenizer(tmp_path / "mine/tokenizer.json", "a", "b", "more")  # an extended one is fine
    assert plan(tmp_path, text).notes == ()
    tokenizer(tmp_path / "mine/tokenizer.json", "b", "a")
    with pytest.raises(ConfigError, match=r"gives tokens other ids than .*weights/tokenizer\.json"):
        plan(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "table"), [("config.yaml", TINY), ("config.yaml", OF_MINDFORMERS), ("config.json", OF_HF)]
)
@pytest.mark.parametrize(
    ("key", "value"),
    [("num_heads", 2), ("num_layers", 3), ("hidden_size", 128), ("vocab_size", 600), ("eos_token_id", 5)],
)
def test_a_network_that_contradicts_the_weights_is_refused_with_both_values(
    tmp_path: Path, name: str, table: dict[str, Any], key: str, value: int
) -> None:
    folder = weights(tmp_path)
    tokenizer(folder / "tokenizer.json", "a")
    (folder / name).write_text(json.dumps(table))
    text = TRAIN.replace("{preset: tiny}", "{preset: tiny, overrides: {hidden_act: ACT}}") + LOAD
    text = text.replace("ACT", "gelu" if name == "config.json" else "fast_gelu")
    assert plan(tmp_path, text).world_size == 4
    changed = text.replace("{hidden_act", f"{{{key}: {value}, hidden_act")
    (line,) = lines_of(tmp_path, lambda: plan(tmp_path, changed))
    assert line.startswith(f"job.yaml:5: model.overrides.{key}: {key} is {value}, but ")
    assert f"weights/{name}" in line and f"set model.overrides.{key} to" in line


def test_the_activation_of_a_preset_against_that_of_published_weights(tmp_path: Path) -> None:
    folder = weights(tmp_path)
    tokenizer(folder / "tokenizer.json", "a")
    (folder / "config.json").write_text(json.dumps(OF_HF))
    (line,) = lines_of(tmp_path, lambda: plan(tmp_path, TRAIN + LOAD, HOSTS))
    assert line.startswith(
        "job.yaml:5: model.preset: hidden_act is 'fast_gelu', but 'gelu' by weights/config.json"
    )


@pytest.mark.parametrize("text", ["config", "a: 1\n", "[", "{" * 5000, '{"model_type": "gpt2"}', "null"])
@pytest.mark.parametrize("name", ["config.yaml", "config.json"])
def test_another_file_of_that_name_says_nothing(tmp_path: Path, name: str, text: str) -> None:
    folder = weights(tmp_path)
    tokenizer(folder / "tokenizer.json", "a")
    (folder / name).write_text(text)
    assert plan(tmp_path, TRAIN + LOAD).world_size == 4
