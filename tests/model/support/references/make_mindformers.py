"""Writes `mindformers/`: what MindFormers' own Bloom saves, answers and loses, for `test_mindformers_bloom`.

    python make_mindformers.py            # writes the folder anew
    python make_mindformers.py OURS.ckpt  # loads a checkpoint of ours there, and compares the logits

Not run by the tests: it needs MindFormers 1.0.2 on MindSpore 2.10 (CPU) in an environment of its own, with
`pip install --no-deps mindformers==1.0.2 transformers==4.57.1 tokenizers==0.22.1 huggingface_hub==0.36.2
datasets==4.0.0 pyarrow==19.0.0 pandas==2.2.3 mindpet==1.0.4 opencv-python-headless==5.0.0.93 nltk==3.9.1
sentencepiece ftfy regex tiktoken jieba rouge_chinese joblib setproctitle tensorboardX` and what those ask.
MindSpore has dropped four modules that it imports and this network does not use: they have stand-ins.

`bloom.ckpt` is the network with `use_past`, as `save_checkpoint` writes it; `trained.ckpt` the training cell
with its optimizer and loss scale after one step, and the counters that the checkpoint callback adds;
`values.npz` ids, logits (of `bloom.ckpt`) and the losses of both.
"""

import sys
import types
from pathlib import Path

import mindspore as ms
import mindspore.dataset.transforms as transforms
import mindspore.dataset.vision as vision
import numpy as np
from mindspore import Tensor, nn


class StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for home in (transforms, vision):
    for kind in ("py_transforms", "c_transforms"):
        module = StandIn(f"{home.__name__}.{kind}")
        sys.modules[module.__name__] = module
        setattr(home, kind, module)

ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")

from mindformers.core.optim import FP32StateAdamWeightDecay  # noqa: E402
from mindformers.models.bloom import BloomConfig, BloomLMHeadModel  # noqa: E402
from mindformers.wrapper.wrapper import MFTrainOneStepCell  # noqa: E402


class OneStep(MFTrainOneStepCell):
    """Without the checks that only an Ascend has."""

    def start_overflow_check(self, pre_cond: object, compute_input: object) -> tuple[object, object]:
        return pre_cond, compute_input

    def get_overflow_status(self, status: object, grads: object) -> Tensor:
        return ms.ops.zeros((), ms.bool_)


HOME = Path(__file__).with_name("mindformers")
SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 48, "seq_length": 12}
TYPES = dict.fromkeys(
    (
        "param_init_type",
        "embedding_init_type",
        "layernorm_compute_type",
        "softmax_compute_type",
        "compute_dtype",
    ),
    "float32",
)
EOS = 2


def network(**more: object) -> BloomLMHeadModel:
    drop = {"hidden_dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    return BloomLMHeadModel(BloomConfig(**SIZES, **TYPES, **drop, batch_size=2, eos_token_id=EOS, **more))


def draw(cells: nn.Cell) -> None:
    random = np.random.default_rng(5)
    for item in cells.get_parameters():
        if item.name.endswith("_past"):
            continue
        middle = 1.0 if item.name.endswith("gamma") else 0.0
        # Its residual and its head are float16: small logits are exact enough to be compared.
        values = middle + random.standard_normal(item.shape) * (0.05 if "table" in item.name else 0.15)
        item.set_data(Tensor(values.astype(np.float32), item.dtype))


def ids() -> np.ndarray:
    """(2, 13): prompts are negative; the second row is filled with eos, which attention leaves out there."""
    rows = np.random.default_rng(6).integers(4, SIZES["vocab_size"], (2, SIZES["seq_length"] + 1))
    rows[0, :4] *= -1
    rows[1, :3] *= -1
    rows[1, 9:] = EOS
    return rows.astype(np.int32)


def logits_of(cells: nn.Cell, rows: np.ndarray) -> np.ndarray:
    return cells.set_train(False)(Tensor(np.abs(rows)))[0].asnumpy().reshape(*rows.shape, -1)


def write() -> None:
    HOME.mkdir(exist_ok=True)
    rows = ids()
    plain, caching = network(), network(use_past=True)
    draw(plain)
    draw(caching)
    ms.save_checkpoint(caching, str(HOME / "bloom.ckpt"))
    values = {"ids": rows, "logits": logits_of(plain, rows[:, :-1])}
    values["loss"] = plain.set_train()(Tensor(rows)).asnumpy()
    optimizer = FP32StateAdamWeightDecay(plain.trainable_params(), learning_rate=0.01)
    scale = nn.DynamicLossScaleUpdateCell(1024.0, 2, 1000)
    cell = OneStep(plain, optimizer, scale_sense=scale)
    cell.set_train()(Tensor(rows))
    counters = {"epoch_num": 1, "step_num": 1, "loss_scale": 1024.0}
    ms.save_checkpoint(cell, str(HOME / "trained.ckpt"), append_dict=counters)
    values["trained_loss"] = plain.set_train()(Tensor(rows)).asnumpy()
    np.savez_compressed(HOME / "values.npz", **values)
    for path in sorted(HOME.iterdir()):
        print(path.name, path.stat().st_size)
    print(*ms.load_checkpoint(str(HOME / "trained.ckpt")))


def compare(path: str) -> None:
    """A checkpoint of ours with these sizes, loaded as MindFormers loads any, gives the frozen logits."""
    cells = network()
    missing, extra = ms.load_param_into_net(cells, ms.load_checkpoint(path))
    with np.load(HOME / "values.npz") as stored:
        gap = np.abs(logits_of(cells, stored["ids"][:, :-1]) - stored["logits"]).max()
    print(f"missing {missing}, left over {extra}, largest difference of the logits {gap:.2g}")


if __name__ == "__main__":
    compare(sys.argv[1]) if len(sys.argv) > 1 else write()
