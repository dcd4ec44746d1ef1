"""Sampling: how the next token is chosen from the logits; NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config.bloom_config import BloomConfig
from model.errors import ModelError

__all__ = ["Sampling", "choose", "penalised"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is decoded; temperature 0 is greedy, top_k 0 and top_p 1 leave all tokens in.

    An answer ends at eos, after max_new_tokens, or where prompt and answer together have max_length
    tokens; either limit may be None.
    """

    max_new_tokens: int | None = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 42
    max_length: int | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1

    @staticmethod
    def of(config: BloomConfig, **given: Any) -> Sampling:
        """The config's own way of decoding, with what is given in its place.

        `do_sample`, given or the config's, decides whether the temperature counts. With one of the two
        limits given, the config's max_decode_length is not asked.
        """
        do_sample = given.pop("do_sample", config.do_sample)
        names = ("temperature", "top_k", "top_p", "repetition_penalty", "num_beams")
        values = {**{name: getattr(config, name) for name in names}, **given}
        if not do_sample:
            values.update(temperature=0.0, top_k=0, top_p=1.0)
        if "max_new_tokens" not in given:
            values["max_new_tokens"] = None
            values.setdefault("max_length", config.max_decode_length)
        return Sampling(**values)

    def limit(self, prompt: int, room: int) -> int:
        """How long prompt and answer become at most; `room` is what the network holds."""
        lengths = [room]
        if self.max_new_tokens is not None:
            lengths.append(prompt + self.max_new_tokens)
        if self.max_length is not None:
            lengths.append(self.max_length)
        return min(lengths)

    def check(self) -> None:
        """Raise ModelError naming every value that makes no sense."""
        wrong = [
            f"{key} must be at least 1, not {getattr(self, key)}"
            for key in ("max_new_tokens", "max_length", "num_beams")
            if getattr(self, key) is not None and getattr(self, key) < 1
        ]
        wrong += [
            f"{key} must not be below 0, is {getattr(self, key)}"
            for key in ("temperature", "top_k", "seed")
            if getattr(self, key) < 0
        ]
        if not 0 < self.top_p <= 1:
            wrong.append(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.repetition_penalty <= 0:
            wrong.append(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if self.num_beams > 1 and self.temperature > 0:
            wrong.append(f"num_beams {self.num_beams} takes the likeliest, so temperature must be 0")
        if wrong:
            raise ModelError("; ".join(wrong), where="predict")


def penalised(logits: NDArray[Any], text: Sequence[int], penalty: float) -> NDArray[Any]:
    """(V,) logits in which every token of the text has become less likely, as in "CTRL" (Keskar, 2019)."""
    if penalty == 1.0:
        return logits
    logits, seen = logits.copy(), np.unique(np.asarray(text))
    logits[seen] = np.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
    return logits


def choose(logits: NDArray[Any], sampling: Sampling, random: np.random.Generator) -> int:
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
