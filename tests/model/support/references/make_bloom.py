"""Makes bloom.npz: what Hugging Face's Bloom computes with small random weights, under MindFormers' names.

    pip install torch transformers numpy && python tests/model/support/references/make_bloom.py

Per model (`<heads>.`): the weights (`w.`), ids and their logits, the mean loss over all labels and the
loss that a mask of the prompt leaves, the gradients of the first (`g.`), greedy and beam-search tokens, and
greedy tokens under a repetition penalty. The models are as small as can be; 6 and 12 are no powers of two.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import BloomConfig, BloomForCausalLM

SIZES = {4: (16, 1), 6: (24, 2), 12: (24, 1)}  # heads: hidden size, layers
VOCABULARY, NEW = 64, 24
NAMES = {
    "word_embeddings.weight": "embedding.word_embedding.embedding_table",
    "word_embeddings_layernorm": "embedding.norm",
    "input_layernorm": "layernorm1",
    "post_attention_layernorm": "layernorm2",
    "self_attention.dense": "attention.projection",
    "mlp.dense_h_to_4h": "output.mapping",
    "mlp.dense_4h_to_h": "output.projection",
}


def renamed(name: str, tensor: torch.Tensor, heads: int) -> dict[str, np.ndarray]:
    """One tensor of Hugging Face's -> the one or three of MindFormers'."""
    array = tensor.detach().float().numpy()
    name = name.replace("transformer.h.", "transformer.blocks.")
    if "query_key_value" in name:
        parts = array.reshape(heads, 3, array.shape[0] // heads // 3, *array.shape[1:])
        joined = [parts[:, index].reshape(-1, *array.shape[1:]) for index in range(3)]
        stem, leaf = name.split("self_attention.query_key_value")
        return {f"{stem}attention.dense{index + 1}{leaf}": part for index, part in enumerate(joined)}
    for old, new in NAMES.items():
        name = name.replace(old, new)
    if "norm" in name or "ln_f" in name:
        name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
    turned = name.endswith(("projection.weight", "mapping.weight"))
    return {name: array.T.copy() if turned else array}


def tokens(model: BloomForCausalLM, prompt: torch.Tensor, **options: object) -> np.ndarray:
    """The new tokens; eos ends them, as it does in ours, and is left out."""
    given = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": 3, "eos_token_id": 2, **options}
    ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), **given)[
        0, prompt.shape[1] :
    ].tolist()
    return np.array(ids[: ids.index(2)] if 2 in ids else ids)


def reference(heads: int, hidden: int, layers: int) -> dict[str, np.ndarray]:
    torch.manual_seed(heads)
    config = BloomConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        n_layer=layers,
        n_head=heads,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    model = BloomForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Wide enough for answers that do not repeat one token; norms differ from 1 and 0.
            centre = 1.0 if "norm.weight" in name or "ln_f.weight" in name else 0.0
            parameter.copy_(centre + torch.randn_like(parameter) * (0.4 if parameter.ndim > 1 else 0.2))
    ids = torch.randint(4, VOCABULARY, (2, 20))
    out = model(ids, labels=ids)
    out.loss.backward()
    mask = torch.zeros(2, 19)
    mask[0, 7:], mask[1, 11:15] = 1, 1
    losses = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1), reduction="none"
    )
    prompt = ids[:1, :5]
    found = {
        "ids": ids.numpy(),
        "logits": out.logits.detach().numpy(),
        "loss": out.loss.detach().numpy(),
        "mask": mask.numpy(),
        "masked_loss": ((losses * mask.reshape(-1)).sum() / mask.sum()).detach().numpy(),
        "greedy": tokens(model, prompt),
        "penalised": tokens(model, prompt, repetition_penalty=1.3),
        "beams": tokens(model, prompt, num_beams=3),
    }
    for name, parameter in model.named_parameters():
        found |= {f"w.{key}": value for key, value in renamed(name, parameter, heads).items()}
        found |= {f"g.{key}": value for key, value in renamed(name, parameter.grad, heads).items()}
    return {f"{heads}.{key}": value for key, value in found.items()}


if __name__ == "__main__":
    everything: dict[str, np.ndarray] = {}
    for heads, (hidden, layers) in SIZES.items():
        everything |= reference(heads, hidden, layers)
    np.savez_compressed(Path(__file__).with_name("bloom.npz"), **everything)
