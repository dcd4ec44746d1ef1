"""Bloom's forward pass in plain NumPy, from the paper's formulas: what the network is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from orchestrator.families.bloom import BloomConfig


def logits(weights: Mapping[str, np.ndarray], ids: np.ndarray, config: BloomConfig) -> np.ndarray:
    """(S,) ids -> (S, V), in float64."""
    table = weights["embedding.word_embedding.embedding_table"].astype(np.float64)
    x = _norm(table[ids], weights, "embedding.norm")
    for layer in range(config.num_layers):
        block = f"blocks.{layer}"
        x = x + _attention(_norm(x, weights, f"{block}.layernorm1"), weights, f"{block}.attention", config)
        inner = _norm(x, weights, f"{block}.layernorm2")
        inner = inner @ weights[f"{block}.output.mapping.weight"] + weights[f"{block}.output.mapping.bias"]
        inner = _activation(inner, config.hidden_act)
        x = (
            x
            + inner @ weights[f"{block}.output.projection.weight"]
            + weights[f"{block}.output.projection.bias"]
        )
    return _norm(x, weights, "ln_f") @ table.T


def _norm(x: np.ndarray, weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.gamma"] + weights[f"{name}.beta"]


def _activation(x: np.ndarray, kind: str) -> np.ndarray:
    if kind == "fast_gelu":
        return x / (1 + np.exp(-1.702 * x))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _attention(
    x: np.ndarray, weights: Mapping[str, np.ndarray], name: str, config: BloomConfig
) -> np.ndarray:
    q, k, v = (x @ weights[f"{name}.dense{n}.weight"].T + weights[f"{name}.dense{n}.bias"] for n in (1, 2, 3))
    size, out = config.head_size, np.zeros_like(q)
    distance = np.arange(len(x))[:, None] - np.arange(len(x))[None, :]
    for head in range(config.num_heads):
        part = slice(head * size, (head + 1) * size)
        slope = 2.0 ** (-8.0 * (head + 1) / config.num_heads)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size) - slope * distance
        scores[distance < 0] = -np.inf
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, part] = chances / chances.sum(-1, keepdims=True) @ v[:, part]
    return out @ weights[f"{name}.projection.weight"] + weights[f"{name}.projection.bias"]
