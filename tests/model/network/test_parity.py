"""The same numbers as Hugging Face's transformers; see support/references/make_bloom.py."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import ops

from model.config.load_config import load_config
from model.inference.generate import Generator
from model.inference.sampling import Sampling
from model.network.build import build
from model.network.loss import LossCell

HEADS = (4, 6, 12)
PROMPT = 5


class Reference:
    """One of the small models: what is stored of it, and our network with its weights."""

    def __init__(self, heads):
        with np.load(Path(__file__).parents[1] / "support" / "references" / "bloom.npz") as stored:
            own = {
                name.split(".", 1)[1].replace(".transformer.", "."): stored[name]
                for name in stored
                if name.startswith(f"{heads}.")
            }
        self.values = own
        hidden = own["w.ln_f.gamma"].size
        layers = sum("layernorm1.gamma" in name for name in own) // 2  # each has a weight and a gradient
        shape = {"hidden_size": hidden, "num_heads": heads, "num_layers": layers, "vocab_size": 64}
        self.config = load_config("tiny", {**shape, "seq_length": 32, "hidden_act": "gelu"})
        self.network = build(self.config)
        weights = {name[2:]: own[name] for name in own if name.startswith("w.")}
        assert {item.name for item in self.network.get_parameters()} == set(weights)
        for item in self.network.get_parameters():
            item.set_data(ms.Tensor(weights[item.name]))

    def loss(self, weights):
        ids = self.values["ids"].astype(np.int32)
        inputs = (ms.Tensor(ids[:, :-1]), ms.Tensor(ids[:, 1:]), ms.Tensor(weights.astype(np.float32)))
        parameters = ms.ParameterTuple(list(self.network.get_parameters()))
        cell = LossCell(self.network).set_train(False)
        loss, grads = ops.value_and_grad(cell, None, parameters)(*inputs)
        return float(loss), {item.name: grad.asnumpy() for item, grad in zip(parameters, grads, strict=True)}


@cache
def reference(heads):
    return Reference(heads)


@pytest.mark.parametrize("heads", HEADS)
def test_logits(heads):
    model = reference(heads)
    got = model.network.set_train(False)(ms.Tensor(model.values["ids"].astype(np.int32))).asnumpy()
    np.testing.assert_allclose(got, model.values["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("heads", HEADS)
def test_losses_and_gradients(heads):
    model = reference(heads)
    mask = model.values["mask"]
    loss, grads = model.loss(np.full(mask.shape, 1 / mask.size))
    assert loss == pytest.approx(float(model.values["loss"]), abs=1e-5)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, model.values[f"g.{name}"], atol=2e-5, rtol=1e-3, err_msg=name)
    assert model.loss(mask / mask.sum())[0] == pytest.approx(float(model.values["masked_loss"]), abs=1e-5)


def answers(heads, *samplings):
    model = reference(heads)
    generator = Generator(model.network, model.config)
    prompt = model.values["ids"][0, :PROMPT].tolist()
    return [generator.generate([prompt], sampling)[0] for sampling in samplings]


@pytest.mark.parametrize("heads", HEADS)
def test_greedy_tokens_also_under_a_penalty(heads):
    greedy, penalised = answers(heads, Sampling(24), Sampling(24, repetition_penalty=1.3))
    assert greedy == reference(heads).values["greedy"].tolist()
    assert penalised == reference(heads).values["penalised"].tolist()


def test_beams():
    (found,) = answers(12, Sampling(24, num_beams=3))
    assert found == reference(12).values["beams"].tolist()
    assert found != reference(12).values["greedy"].tolist()
