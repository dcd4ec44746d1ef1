"""Token by token from a network: greedy, or drawn with temperature, top-k and top-p from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from model.bloom import BloomLMHeadModel
from model.config import BloomConfig
from model.errors import ModelError

__all__ = ["Generator", "Sampling", "choose"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; temperature 0 is greedy, top_k 0 and top_p 1 leave all tokens in."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 42

    def check(self) -> None:
        """Raise ModelError naming every value that makes no sense."""
        wrong = []
        if self.max_new_tokens < 1:
            wrong.append(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.temperature < 0:
            wrong.append(f"temperature must not be below 0, is {self.temperature}")
        if self.top_k < 0:
            wrong.append(f"top_k must not be below 0, is {self.top_k}")
        if not 0 < self.top_p <= 1:
            wrong.append(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.seed < 0:
            wrong.append(f"seed must not be below 0, is {self.seed}")
        if wrong:
            raise ModelError("; ".join(wrong), where="predict")


def choose(logits: np.ndarray, sampling: Sampling, random: np.random.Generator) -> int:
    """The next token from (V,) logits."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scores = logits.astype(np.float64) / sampling.temperature
    order = np.argsort(-scores, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    chances = np.exp(scores[order] - scores[order[0]])
    chances /= chances.sum()
    # The smallest head of the list whose chances reach top_p: those before which less than top_p lies.
    kept = np.cumsum(chances) - chances < sampling.top_p
    order, chances = order[kept], chances[kept]
    return int(random.choice(order, p=chances / chances.sum()))


class _NextLogits(nn.Cell):
    """(B, S) ids and (B,) last positions -> (B, V) logits of the token after each."""

    def __init__(self, network: BloomLMHeadModel) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, ids: Any, last: Any) -> Any:
        hidden = self.network.transformer(ids)  # (B, S, h)
        rows = ops.arange(0, ids.shape[0])
        return self.network.head(hidden[rows, last])


class Generator:
    """Continues prompts with one graph, compiled once for (batch, seq_length)."""

    def __init__(self, network: BloomLMHeadModel, config: BloomConfig, batch: int = 1) -> None:
        self.config, self.batch = config, batch
        self._next = _NextLogits(network).set_train(False)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """The new tokens of at most `batch` prompts, up to and without eos.

        A prompt ends when the sequence is full. The draws depend on seed and prompt, not on its neighbours.
        """
        sampling.check()
        texts = [list(prompt) for prompt in prompts]
        for text in texts:
            self._check_room(len(text))
        new: list[list[int]] = [[] for _ in texts]
        for row, token in self._tokens(texts, sampling):
            new[row].append(token)
        return new

    def _check_room(self, length: int) -> None:
        if not 0 < length < self.config.seq_length:
            raise ModelError(
                f"a prompt of {length} tokens leaves no room in seq_length {self.config.seq_length}",
                where="prompt",
                remedy="shorten it or raise seq_length" if length else "it is empty",
            )

    def _tokens(self, texts: list[list[int]], sampling: Sampling) -> Iterator[tuple[int, int]]:
        """(row, token) as they come; `texts` grow by what was chosen."""
        streams = [np.random.default_rng([sampling.seed, *text]) for text in texts]
        alive = set(range(len(texts)))
        for _ in range(sampling.max_new_tokens):
            if not alive:
                return
            logits = self._logits(texts)
            for row in sorted(alive):
                token = choose(logits[row], sampling, streams[row])
                if token == self.config.eos_token_id:
                    alive.discard(row)
                    continue
                texts[row].append(token)
                yield row, token
                if len(texts[row]) >= self.config.seq_length:
                    alive.discard(row)

    def _logits(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        ids = np.full((self.batch, self.config.seq_length), self.config.pad_token_id, np.int32)
        last = np.zeros(self.batch, np.int32)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            last[row] = len(text) - 1
        return np.asarray(self._next(ms.Tensor(ids), ms.Tensor(last)).asnumpy())
