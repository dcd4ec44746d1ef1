from __future__ import annotations

import json

import numpy as np
import pytest

from model.config import load_config
from model.data import Dataset, Record, encode_record, load_records, wrap
from model.errors import ModelError
from model.tokenizer import load_tokenizer, train_tokenizer
from tests.model.cluster import ROOT

CONFIG = load_config("tiny", {"seq_length": 96})


@pytest.fixture(scope="module")
def records():
    return load_records(ROOT / "jobs/data/demo.json")


@pytest.fixture(scope="module")
def tokenizer(records):
    return train_tokenizer((wrap(record.instruction) + record.output for record in records), CONFIG)


def test_the_template():
    plain = wrap("Count {to} three.")
    assert (
        plain.endswith("### Instruction:\nCount {to} three.\n\n### Response:\n") and "### Input" not in plain
    )
    paired = wrap("Add {input}.", "1 and {instruction}")
    assert "paired with an input" in paired
    assert paired.endswith(
        "### Instruction:\nAdd {input}.\n\n### Input:\n1 and {instruction}\n\n### Response:\n"
    )
    assert wrap("Hello", template="none") == "Hello\n"


def test_only_the_answer_and_its_end_are_scored(tokenizer):
    record = Record("What colour is milk?", "Milk is white.")
    ids, weights = encode_record(record, tokenizer, CONFIG)
    assert ids.shape == (97,) and weights.shape == (96,)
    scored = ids[1:][weights == 1]
    assert scored[-1] == CONFIG.eos_token_id and tokenizer.decode(scored[:-1]) == "Milk is white."
    assert ids[0] == tokenizer.encode(wrap(record.instruction))[0]
    assert set(ids[1:][np.flatnonzero(weights)[-1] + 1 :]) == {CONFIG.pad_token_id}
    _, everything = encode_record(record, tokenizer, CONFIG, whole=True)
    assert everything.sum() == weights.sum() + len(tokenizer.encode(wrap(record.instruction))) - 1


def test_what_is_too_long_is_cut_or_left_out(tokenizer):
    ids, weights = encode_record(Record("Say it.", "white " * 200), tokenizer, CONFIG)
    assert weights[-1] == 1 and CONFIG.eos_token_id not in ids
    assert encode_record(Record("word " * 200, "No."), tokenizer, CONFIG) is None
    with pytest.raises(
        ModelError, match=r"data.seq_length: no record leaves room for an answer in 96 tokens"
    ):
        Dataset([Record("word " * 200, "No.")], tokenizer, CONFIG)


def test_replicas_share_out_the_same_records(records, tokenizer):
    data = Dataset(records[:50], tokenizer, CONFIG)
    for step in (1, 3, 7):  # step 7 crosses the end of the first epoch
        whole = data.batch(step, 8, seed=1)
        parts = [data.batch(step, 4, seed=1, replicas=2, replica=replica) for replica in (0, 1)]
        np.testing.assert_array_equal(whole.tokens, np.concatenate([part.tokens for part in parts]))
        np.testing.assert_array_equal(whole.weights, np.concatenate([part.weights for part in parts]))
        assert whole.weights.sum() == pytest.approx(1, abs=1e-5)
    seen = np.concatenate([data.rows(step, 10, seed=1) for step in range(1, 6)])
    assert sorted(seen) == list(range(50))
    assert [data.epoch(step, 10) for step in (1, 5, 6)] == [1, 1, 2]
    assert list(data.rows(1, 10, seed=1)) != list(data.rows(1, 10, seed=2))
    assert len(data.rows(1, 120, seed=1)) == 120


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "must hold a JSON list of records"),
        ('{"a": 1}', "must hold a JSON list of records"),
        ('[{"instruction": "a", "output": "b"}, 3]', "record 1: must be a table, not int"),
        ('[{"instruction": "a"}]', "record 0: 'output' must be a text that is not empty"),
        ('[{"instruction": "a", "output": "b", "input": 3}]', "record 0: 'input' must be a text"),
    ],
)
def test_bad_records_are_named(tmp_path, content, message):
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(ModelError) as caught:
        load_records(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no\.json: cannot be read: No such file"):
        load_records(tmp_path / "no.json")


def test_the_tokenizer_is_the_same_each_time_and_takes_any_text(records, tokenizer, tmp_path):
    again = train_tokenizer((wrap(record.instruction) + record.output for record in records), CONFIG)
    assert again.to_json() == tokenizer.to_json()
    text = " spaces  and\n\tlines, héllo 你好 🎈 {braces}"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    assert load_tokenizer(path, CONFIG).encode(text) == tokenizer.encode(text)
    vocabulary = json.loads(tokenizer.to_json())["model"]["vocab"]
    assert [vocabulary[token] for token in ("<unk>", "<s>", "</s>", "<pad>")] == [0, 1, 2, 3]


def test_tokenizers_that_do_not_fit(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    with pytest.raises(ModelError, match=r"has ids up to 511, but model.vocab_size is 300"):
        load_tokenizer(path, load_config("tiny", {"vocab_size": 300}))
    path.write_text("{}")
    with pytest.raises(ModelError, match=r"is no tokenizer.json"):
        load_tokenizer(path, CONFIG)
    with pytest.raises(ModelError, match="the tokenizer cannot be read"):
        load_tokenizer(tmp_path / "none.json", CONFIG)
    with pytest.raises(ModelError, match="vocab_size 100 has no room for all bytes"):
        train_tokenizer(["a"], load_config("tiny", {"vocab_size": 100}))
