"""Cells that only an Ascend can run: types, shapes and attributes pass MindSpore's own inference."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from model.config.load_config import load_config
from model.devices.device import built_for
from model.network.build import build
from model.network.dropout import seed_dropout
from model.network.flash_attention import FlashAttention, FlashBias
from tests.model.support.ascend_compile import A2, groups_of, primitives_of, stops_at_kernel_selection

HEADS, SIZE = 2, 16
SHAPE = {"hidden_size": HEADS * SIZE, "num_heads": HEADS, "num_layers": 1, "vocab_size": 32, "seq_length": 64}


def attention(dtype, dropout=0.0, heads=HEADS):
    with built_for(A2):
        types = {"compute_dtype": dtype, "softmax_compute_type": dtype}
        config = load_config("tiny", {**SHAPE, **types, "attention_dropout_rate": dropout})
        return FlashAttention(config, heads)


def operands(dtype, length, batch=3):
    """q, k, v and the bias."""
    shapes = [(batch, HEADS, length, SIZE)] * 3 + [(1, HEADS, length, length)]
    return [ms.Tensor(np.zeros(shape, np.float32), getattr(ms, dtype)) for shape in shapes]


@pytest.mark.parametrize("length", [64, 61, 1])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_flash_attention_is_inferred(dtype, length):
    cell = attention(dtype).set_train(False)
    stopped = stops_at_kernel_selection(cell, *operands(dtype, length))
    # 2.7's CPU lacks the product before the kernel, too, in bfloat16.
    old = ms.__version__.startswith("2.7.") and dtype == "bfloat16"
    assert stopped == ({"Muls"} if old else {"FlashAttentionScore"})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_flash_attention_and_its_gradient_are_inferred_with_dropout(dtype):
    cell = attention(dtype, dropout=0.1).set_train()
    with built_for(A2):
        assert seed_dropout(cell, (1,)) is not None
    stopped = stops_at_kernel_selection(Gradient(cell), *operands(dtype, 64))
    assert len(stopped) == 1 and stopped <= {"DropoutGenMaskExt", "FlashAttentionScore", "Muls"}


class Gradient(nn.Cell):
    def __init__(self, cell):
        super().__init__()
        self.backward = ops.grad(cell, (0, 1, 2))

    def construct(self, q, k, v, bias):
        return self.backward(q, k, v, bias)


def test_a_wrong_count_of_heads_is_no_question_of_kernels():
    with pytest.raises(RuntimeError, match=r"must be equal to attribute .head_num."):
        stops_at_kernel_selection(attention("float16", heads=HEADS + 1), *operands("float16", 64))


def test_the_network_on_an_ascend_has_the_kernel_and_is_inferred_with_it():
    half = dict.fromkeys(("param_init_type", "compute_dtype", "softmax_compute_type"), "float16")
    with built_for(A2):
        network = build(load_config("tiny", {**SHAPE, **half, "use_flash_attention": True}))
    assert {type(block.attention.core) for block in network.transformer.blocks} == {FlashAttention}
    assert isinstance(network.transformer.bias, FlashBias)
    ids = ms.Tensor(np.zeros((2, 64), np.int32))
    assert stops_at_kernel_selection(network.set_train(False), ids) == {"FlashAttentionScore"}


class Add(nn.Cell):
    def construct(self, x, y):
        return x + y


def test_what_a_cpu_has_all_kernels_of_is_compiled_to_the_end_and_what_is_wrong_is_raised():
    two, three = (ms.Tensor(np.zeros(size, np.float32)) for size in (2, 3))
    assert stops_at_kernel_selection(Add(), two, two) == set()
    with pytest.raises(ValueError, match="broadcast"):
        stops_at_kernel_selection(Add(), two, three)


class Gather(nn.Cell):
    def __init__(self):
        super().__init__()
        self.gather, self.add = ops.AllGather(group="four"), ops.Add()

    def construct(self, x, whole):
        return self.add(self.gather(x), whole)


def test_collectives_are_inferred_for_groups_that_are_not_there():
    with groups_of({"four": 4}):
        cell = Gather()
    one, four, five = (ms.Tensor(np.zeros((rows, 3), np.float32)) for rows in (1, 4, 5))
    assert stops_at_kernel_selection(cell, one, four) == {"AllGather"}
    with pytest.raises(ValueError, match="broadcast"):
        stops_at_kernel_selection(cell, one, five)


def test_operators_in_a_graphs_text():
    text = """
  %0(equiv_20_CNode_132) = Load(%para5_table, UMonad[U]) cnode_attrs: {checkpoint: Bool(1)}
  %1(equiv_19_CNode_133) = PrimFunc_Gather(%0, %para1_tokens, I64(0), I64(0)) {instance name: gather}
      : (<Ref[Tensor[Float32]], (32, 32)>) -> (<Tensor[Float32], (2, 16, 32)>)
      # In file model/network/bloom.py:82, 19~65/        return self.gather(self.embedding_table, ids, 0)/
  %2(out) = BitwiseXor(%1, %1) primitive_attrs: {output_names: [output]}
    """
    assert primitives_of(text) == {"Load", "Gather", "BitwiseXor"}
