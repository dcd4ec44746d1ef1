from __future__ import annotations

import dataclasses
from functools import cache

import mindspore as ms
import numpy as np
import pytest

from model.compatibility.auto_model import PretrainedModel
from model.config.load_config import load_config
from model.errors import ModelError
from model.inference.cached_attention import CachedReader, PlainReader
from model.inference.generate import Generator, text_pieces
from model.inference.sampling import Sampling, choose
from model.network.build import build, initialise
from model.parallel.mesh import Place, Strategy

LOGITS = np.log(np.array([0.05, 0.5, 0.15, 0.3]))


def drawn(**options):
    sampling = Sampling(temperature=1.0, **options)
    random = np.random.default_rng(0)
    return {choose(LOGITS, sampling, random) for _ in range(300)}


def test_which_tokens_can_be_chosen():
    assert choose(LOGITS, Sampling(), np.random.default_rng(0)) == 1
    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {1, 3}
    assert drawn(top_p=0.5) == {1}
    assert drawn(top_p=0.81) == {1, 2, 3}
    assert drawn(top_k=3, top_p=0.6) == {1, 3}


def test_the_chances_follow_the_temperature():
    random = np.random.default_rng(1)
    draws = [choose(LOGITS, Sampling(temperature=0.5), random) for _ in range(4000)]
    squares = np.exp(LOGITS) ** 2
    assert draws.count(1) / 4000 == pytest.approx(squares[1] / squares.sum(), abs=0.03)


def test_options_that_make_no_sense():
    with pytest.raises(ModelError) as caught:
        Sampling(max_new_tokens=0, temperature=-1, top_k=-2, top_p=0, seed=-1).check()
    assert str(caught.value).count(";") == 4


MODEL = {"seq_length": 16, "vocab_size": 96, "num_heads": 4, "num_layers": 1}
PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 40], [50]]


@cache
def network(**overrides):
    config = load_config("tiny", {**MODEL, **overrides})
    built = build(config)
    initialise(built, config, 11, Strategy(), Place(0, 0, 0, 0))
    return built, config


@cache
def generator(**overrides):
    return Generator(*network(**overrides), batch=3)


@cache
def alone():
    return Generator(*network())


SAMPLED = Sampling(max_new_tokens=8, temperature=1.5, top_k=20, top_p=0.9, repetition_penalty=1.2)


@pytest.mark.parametrize("sampling", [Sampling(8), SAMPLED])
def test_with_and_without_cache_in_batches_and_alone_the_tokens_are_the_same(sampling):
    together = generator().generate(PROMPTS, sampling)
    assert [len(new) for new in together] == [8, 8, 8]
    assert generator(use_past=False).generate(PROMPTS, sampling) == together
    assert [alone().generate([prompt], sampling)[0] for prompt in PROMPTS] == together


@pytest.mark.parametrize("kind", [CachedReader, PlainReader])
def test_padding_does_not_matter(kind):
    built, config = network()
    reader = kind(built, config, 2, 16)
    first = reader.start([[5, 6, 7], [9] * 12])
    reader._pad = 77  # what stands behind the shorter text
    np.testing.assert_array_equal(reader.start([[5, 6, 7], [9] * 12]), first)
    whole = built.set_train(False)(ms.Tensor(np.array([[5, 6, 7, 8]], np.int32))).asnumpy()[0, -1]
    np.testing.assert_allclose(reader.read([8, 8])[0], whole, atol=1e-5)


def test_nothing_is_compiled_while_decoding():
    one = alone()
    stream = one.stream([5, 6, 7], Sampling(12))
    next(stream), next(stream)
    graphs = one._reader.compiled
    assert graphs == 2  # the prompt's and that of one token
    assert len(list(stream)) == 10
    one.generate([[5] * 9], Sampling(5))
    assert one._reader.compiled == graphs


def test_answers_follow_a_training():
    built, config = network(vocab_size=64)
    held = PretrainedModel(built, config)
    before = held.generate([5, 6, 7], max_new_tokens=4)
    held.set_train()
    initialise(built, config, 12, Strategy(), Place(0, 0, 0, 0))
    held.set_train(False)
    after = held.generate([5, 6, 7], max_new_tokens=4)
    assert after == PretrainedModel(built, config).generate([5, 6, 7], max_new_tokens=4) != before


def test_limits_and_the_end():
    one = alone()
    assert len(one.generate([[5, 6, 7]], Sampling(max_new_tokens=None, max_length=10))[0]) == 7
    assert len(one.generate([[5, 6, 7]], Sampling(max_new_tokens=4, max_length=10))[0]) == 4
    new = one.generate([[5, 6, 7]], Sampling(max_new_tokens=999))[0]
    assert len(new) == 13
    assert list(one.stream([5, 6, 7], Sampling(12))) == new[:12]
    one.config, config = dataclasses.replace(one.config, eos_token_id=new[3]), one.config
    assert one.generate([[5, 6, 7]], Sampling(12)) == [new[: new.index(new[3])]]
    one.config = config


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([], Sampling(), "prompt: is empty"),
        ([5] * 16, Sampling(), "a prompt of 16 tokens leaves no room in seq_length 16"),
        ([5, 96, -1, 4], Sampling(), "ids -1, 96 are outside a vocabulary of 96"),
        ([5] * 9, Sampling(max_length=9), "a prompt of 9 tokens leaves no room in max_length 9"),
        ([5], Sampling(num_beams=2, temperature=1), "num_beams 2 takes the likeliest"),
        ([5], Sampling(repetition_penalty=0), "repetition_penalty: must be greater than 0, got 0"),
    ],
)
def test_what_cannot_be_answered_is_one_line(prompt, sampling, message):
    with pytest.raises(ModelError) as caught:
        generator().generate([prompt], sampling)
    assert message in str(caught.value)
    with pytest.raises(ModelError):
        generator().stream(prompt, sampling)


def test_the_config_says_how_answers_are_decoded():
    config = load_config("tiny", {"top_k": 7, "temperature": 0.5, "max_decode_length": 9})
    assert Sampling.of(config) == Sampling(None, 0.5, 7, 1.0, max_length=9)
    assert Sampling.of(config, do_sample=False, max_new_tokens=3) == Sampling(3)
    assert Sampling.of(config, top_k=2, max_length=5) == Sampling(None, 0.5, 2, max_length=5)


def test_text_comes_in_whole_characters():
    class Bytes:
        def decode(self, ids):
            return bytes(ids).decode("utf-8", "replace")

    tokens = list("aé漢!".encode())
    assert list(text_pieces(Bytes(), tokens)) == ["a", "é", "漢", "!"]
    assert list(text_pieces(Bytes(), tokens[:2])) == ["a", "\ufffd"]
    assert list(text_pieces(Bytes(), [])) == []
