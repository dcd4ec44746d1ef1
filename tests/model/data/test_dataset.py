from __future__ import annotations

import json

import numpy as np
import pytest

from model.config.load_config import load_config
from model.config.prompt_templates import wrap
from model.data.dataset import Dataset, encode_records
from model.data.encode_records import as_row, encode, scored, texts_of
from model.data.records import Document, Record, load_records
from model.data.tokenizer import load_tokenizer, train_tokenizer
from model.errors import ModelError
from tests.model.support.cluster import ROOT

CONFIG = load_config("tiny", {"seq_length": 96})
EOS = CONFIG.eos_token_id


@pytest.fixture(scope="module")
def records():
    return load_records(ROOT / "jobs/data/demo.json")


@pytest.fixture(scope="module")
def tokenizer(records):
    return train_tokenizer(texts_of(records, "alpaca"), CONFIG)


def dataset(records, tokenizer, **options):
    return Dataset(encode_records(records, tokenizer, CONFIG), EOS, **options)


def test_only_the_answer_and_its_end_are_scored(tokenizer):
    record = Record("What colour is milk?", "Milk is white.")
    rows = encode_records([record], tokenizer, CONFIG)
    assert rows.shape == (1, 97) and rows.dtype == np.int32
    prompt = tokenizer.encode(wrap(record.instruction))
    assert list(-rows[0, : len(prompt)]) == prompt
    counted = np.flatnonzero(scored(rows, EOS)[0])
    labels = rows[0, 1:][counted]
    assert labels[-1] == EOS and tokenizer.decode(labels[:-1]) == "Milk is white."
    assert set(rows[0, counted[-1] + 2 :]) == {EOS}
    everything = encode_records([record], tokenizer, CONFIG, whole=True)
    np.testing.assert_array_equal(everything, np.abs(rows))
    assert scored(everything, EOS).sum() == len(counted) + len(prompt) - 1


def test_mindformers_counts_a_position_by_its_own_token():
    # MindFormers' bloom.py: loss_mask = (tokens != eos) * (tokens > 0) of tokens = ids[:, :-1].
    rows = np.array([[-5, -6, 7, 8, EOS, EOS, -5, 9, EOS]])
    np.testing.assert_array_equal(scored(rows, EOS, "input"), [[0, 0, 1, 1, 0, 0, 0, 1]])
    np.testing.assert_array_equal(scored(rows, EOS, "label"), [[0, 1, 1, 1, 0, 0, 1, 1]])


def test_documents_are_scored_from_their_first_token_on(tokenizer):
    (sequence,) = encode([Document("Milk is white.")], tokenizer, "alpaca", EOS)
    assert list(sequence) == [*tokenizer.encode("Milk is white."), EOS]
    assert scored(as_row(sequence, 30, EOS)[None], EOS).sum() == len(sequence) - 1


def test_what_is_too_long_is_cut_or_left_out(tokenizer):
    rows = encode_records(
        [Record("word " * 200, "No."), Record("Say it.", "white " * 200)], tokenizer, CONFIG
    )
    assert len(rows) == 1 and scored(rows, EOS)[0, -1] and EOS not in rows
    with pytest.raises(
        ModelError, match=r"data.seq_length: no record leaves room for an answer in 96 tokens"
    ):
        encode_records([Record("word " * 200, "No.")], tokenizer, CONFIG)


@pytest.mark.parametrize("mask", ["label", "input"])
def test_replicas_share_out_the_same_records(records, tokenizer, mask):
    data = dataset(records[:50], tokenizer, mask=mask)
    for step in (1, 3, 7):  # step 7 crosses the end of the first epoch
        whole = data.batch(step, 8, seed=1)
        parts = [data.batch(step, 4, seed=1, replicas=2, replica=replica) for replica in (0, 1)]
        np.testing.assert_array_equal(whole.tokens, np.concatenate([part.tokens for part in parts]))
        np.testing.assert_array_equal(whole.weights, np.concatenate([part.weights for part in parts]))
        assert whole.weights.sum() == pytest.approx(1, abs=1e-5)
        assert whole.tokens.min() >= 0 and whole.labels.min() >= 0
    seen = np.concatenate([data.rows(step, 10, seed=1) for step in range(1, 6)])
    assert sorted(seen) == list(range(50))
    assert [data.epoch(step, 10) for step in (1, 5, 6)] == [1, 1, 2]
    assert list(data.rows(1, 10, seed=1)) != list(data.rows(1, 10, seed=2))
    assert len(data.rows(1, 120, seed=1)) == 120


def test_the_tokenizer_is_the_same_each_time_and_takes_any_text(records, tokenizer, tmp_path):
    again = train_tokenizer(texts_of(records, "alpaca"), CONFIG)
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
