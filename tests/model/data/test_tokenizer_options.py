"""The options of a tokenizer's call, as MindFormers' and transformers' scripts use them."""

from __future__ import annotations

import numpy as np
import pytest

from model.config.load_config import load_config
from model.data.tokenizer import train_tokenizer
from model.errors import ModelError

TEXTS = ["the sky is blue", "the sky"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, load_config("tiny"))


def test_special_tokens_have_ids(tokenizer):
    known = tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    assert known == (0, 1, 2, 3)


def test_rows_are_padded_and_cut(tokenizer):
    long, short = (tokenizer.encode(text) for text in TEXTS)
    assert len(long) > len(short)
    plain = tokenizer(TEXTS)
    assert plain["input_ids"] == [long, short] and plain["attention_mask"][1] == [1] * len(short)
    padded = tokenizer(TEXTS, padding=True, return_tensors="np")
    gap = len(long) - len(short)
    assert padded["input_ids"].dtype == np.int32
    assert padded["input_ids"][1].tolist() == short + [3] * gap
    assert padded["attention_mask"][1].tolist() == [1] * len(short) + [0] * gap
    full = tokenizer(TEXTS[1], padding="max_length", max_length=9, add_special_tokens=False)
    assert full["input_ids"] == short + [3] * (9 - len(short))
    assert tokenizer(TEXTS[0], truncation=True, max_length=2)["input_ids"] == long[:2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_tensors": "pt"}, "return_tensors: is 'pt', not np or ms"),
        ({"return_tensors": "np"}, "texts of different lengths are no tensor"),
        ({"stride": 2}, "knows no option stride"),
    ],
)
def test_what_would_give_other_ids_is_refused(tokenizer, options, message):
    with pytest.raises(ModelError, match=message):
        tokenizer(TEXTS, **options)
