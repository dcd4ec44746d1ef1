from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.config.load_config import load_config
from model.config.settings import Settings
from model.data.tokenizer import load_tokenizer, read_tokenizer, train_tokenizer
from model.data.tokenizer_choice import check_data, check_weights_tokenizer, choose_tokenizer
from model.errors import ModelError
from orchestrator.config.worker_config import CheckpointOptions, Data
from orchestrator.formats.tokenizer_files import SUMMARY, summary_text

CONFIG = load_config("tiny")


def tokenizer(path: Path, *tokens: str, indent: int | None = None) -> Path:
    """A tokenizer.json whose vocabulary are these tokens in the order of their ids."""
    path.parent.mkdir(exist_ok=True, parents=True)
    table = {"model": {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}}}
    path.write_text(json.dumps(table, indent=indent))
    return path


def weights(folder: Path) -> Path:
    (folder / "weights").mkdir(exist_ok=True)
    path = folder / "weights/w.ckpt"
    path.write_text("w")
    return path


def mindrecord(folder: Path, made_with: Path | None) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data/a.mindrecord"
    path.write_text("rows")
    if made_with is not None:
        path.with_name(path.name + SUMMARY).write_text(summary_text(made_with))
    return path


def settings(load: Path | None = None, given: Path | None = None) -> Settings:
    checkpoint = CheckpointOptions(load=None if load is None else str(load))
    return Settings(data=Data(tokenizer=None if given is None else str(given)), checkpoint=checkpoint)


def test_only_a_training_from_nothing_makes_a_new_one(tmp_path):
    assert choose_tokenizer(settings(), None) is None
    data = mindrecord(tmp_path, None)
    with pytest.raises(ModelError, match=r"data\.tokenizer: is missing, .* beside the data"):
        choose_tokenizer(settings(), data)
    load = weights(tmp_path)
    for path in (None, data):
        with pytest.raises(ModelError, match=r"data\.tokenizer: is missing, .* beside .*w\.ckpt"):
            choose_tokenizer(settings(load), path)


def test_that_beside_the_weights_comes_before_that_beside_the_data(tmp_path, capsys):
    load, data = weights(tmp_path), mindrecord(tmp_path, None)
    of_data = tokenizer(tmp_path / "data/tokenizer.json", "a", "b")
    assert choose_tokenizer(settings(load), data) == of_data
    assert choose_tokenizer(settings(), data) == of_data
    of_weights = tokenizer(tmp_path / "weights/tokenizer.json", "a", "b", "c")
    assert choose_tokenizer(settings(load), data) == of_weights
    assert f"data.tokenizer is not given: {of_weights} is taken" in capsys.readouterr().err
    given = tokenizer(tmp_path / "given.json", "a", "b")
    assert choose_tokenizer(settings(load, given), data) == given
    with pytest.raises(ModelError, match=r"none\.ckpt: there is no such checkpoint file"):
        choose_tokenizer(settings(tmp_path / "none.ckpt"), data)


def test_a_resumed_run_goes_on_with_its_own_on_every_host(tmp_path):
    for home in ("one", "two"):
        (tmp_path / home / "checkpoint/rank_0").mkdir(parents=True)
    of_run = tokenizer(tmp_path / "one/model/tokenizer.json", "a")
    assert choose_tokenizer(settings(tmp_path / "one/checkpoint"), None) == of_run
    of_shards = tokenizer(tmp_path / "two/checkpoint/tokenizer.json", "a")
    assert choose_tokenizer(settings(tmp_path / "two/checkpoint"), None) == of_shards
    (tmp_path / "all").mkdir()
    (tmp_path / "all/rank_0").symlink_to(tmp_path / "two/checkpoint/rank_0")
    assert choose_tokenizer(settings(tmp_path / "all"), None) == of_shards


def test_one_that_contradicts_the_weights_is_refused(tmp_path):
    load = weights(tmp_path)
    tokenizer(tmp_path / "weights/tokenizer.json", "a", "b")
    for fine in (("a", "b"), ("a", "b", "more")):
        check_weights_tokenizer(tokenizer(tmp_path / "given.json", *fine, indent=1), load)
    tokenizer(tmp_path / "given.json", "b", "a")
    with pytest.raises(ModelError, match=r"given\.json: gives tokens other ids than .*weights/tokenizer"):
        choose_tokenizer(settings(load, tmp_path / "given.json"), None)


def test_data_of_another_tokenizer_is_refused(tmp_path):
    mine = tokenizer(tmp_path / "mine.json", "a", "b")
    its = tokenizer(tmp_path / "its.json", "b", "a")
    data = mindrecord(tmp_path, its)
    for path in (data, data.parent):
        with pytest.raises(ModelError, match=r"a\.mindrecord: was made with another tokenizer than .*mine"):
            check_data(path, mine)
        check_data(path, its)
    # One that was only written anew is the same.
    again = tokenizer(tmp_path / "again.json", "b", "a", indent=2)
    with pytest.raises(ModelError, match="was made with another tokenizer"):
        check_data(data, again)  # nobody can say
    tokenizer(tmp_path / "data/tokenizer.json", "b", "a")
    check_data(data, again)
    with pytest.raises(ModelError, match="was made with another tokenizer"):
        check_data(data, mine)


@pytest.mark.parametrize("content", [None, "", "[]", '{"rows": 3}', '{"tokenizer_sha256": 3}', "[" * 5000])
def test_data_of_an_earlier_version_is_taken(tmp_path, content):
    data = mindrecord(tmp_path, None)
    if content is not None:
        data.with_name(data.name + SUMMARY).write_text(content)
    check_data(data, tokenizer(tmp_path / "mine.json", "a"))


def test_a_tokenizer_is_kept_to_the_byte_and_read_as_files_come(tmp_path):
    made = train_tokenizer(["some words"], CONFIG)
    path = tmp_path / "tokenizer.json"
    text = json.dumps(json.loads(made.to_json()), indent=3)
    path.write_text(text)
    assert load_tokenizer(path, CONFIG).to_json() == text
    path.write_text("\ufeff" + text)
    assert read_tokenizer(path).encode("words") == made.encode("words")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 123\n")
    with pytest.raises(ModelError, match=r"is a Git LFS pointer, not the file itself \(run `git lfs pull`"):
        read_tokenizer(path)


def test_half_a_character_is_refused_and_another_end_too(tmp_path):
    made = train_tokenizer(["some words"], CONFIG)
    with pytest.raises(ModelError, match="half a surrogate pair"):
        made.encode("typed \udcff")
    with pytest.raises(ModelError, match="half a surrogate pair"):
        made.encode_batch(["fine", "\ud800"])
    with pytest.raises(ModelError, match=r"has </s> as id 2, but model\.eos_token_id is 3"):
        made.check(load_config("tiny", {"eos_token_id": 3}), "x")
