"""A network with its weights, ready to answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model.bloom import BloomLMHeadModel, build, initialise
from model.checkpointing import load_whole
from model.config import BloomConfig
from model.errors import ModelError
from model.generation import Generator, Sampling
from model.parallel import Place, Strategy
from model.session import open_session
from model.settings import Settings, Worker

__all__ = ["PretrainedModel"]


class PretrainedModel:
    """`generate` of MindFormers' models; the network itself is `.network`, a MindSpore Cell."""

    def __init__(self, network: BloomLMHeadModel, config: BloomConfig) -> None:
        self.network, self.config = network, config
        self._generators: dict[int, Generator] = {}

    @classmethod
    def load(cls, checkpoint: Path | None, config: BloomConfig, seed: int = 0) -> PretrainedModel:
        """Build the network on this device and fill it from a checkpoint file, or from the seed."""
        session = open_session(Settings(), Worker())
        network = build(config, session.strategy, session.place, session.groups)
        if checkpoint is None:
            initialise(network, config, seed, Strategy(), Place(0, 0, 0, 0))
        else:
            load_whole(checkpoint, list(network.get_parameters()), session.strategy, session.place)
        network.set_train(False)
        return cls(network, config)

    def set_train(self, mode: bool = True) -> PretrainedModel:
        self.network.set_train(mode)
        return self

    def generate(
        self,
        input_ids: Any,
        *,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 42,
    ) -> list[list[int]]:
        """Prompt and answer of every row of `input_ids`, one row or several of unequal length.

        `max_length` counts prompt and answer, default: the config's max_decode_length; eos is not given back.
        What is not said is taken from the config.
        """
        rows = _rows(input_ids)
        longest = max_length if max_length is not None else self.config.max_decode_length
        new = [max_new_tokens if max_new_tokens is not None else longest - len(row) for row in rows]
        if min(new) < 1:
            raise ModelError(f"max_length {longest} leaves no room after the prompt", where="generate")
        sample = self.config.do_sample if do_sample is None else do_sample
        sampling = Sampling(
            max(new),
            (self.config.temperature if temperature is None else temperature) if sample else 0.0,
            (self.config.top_k if top_k is None else top_k) if sample else 0,
            (self.config.top_p if top_p is None else top_p) if sample else 1.0,
            seed,
        )
        answers = self._generator(len(rows)).generate(rows, sampling)
        return [row + answer[:count] for row, answer, count in zip(rows, answers, new, strict=True)]

    def _generator(self, batch: int) -> Generator:
        """One that takes so many rows: a graph is compiled for a size of batch and serves smaller ones."""
        large = [size for size in self._generators if size >= batch]
        if not large:
            self._generators[batch] = Generator(self.network, self.config, batch)
        return self._generators[min(large, default=batch)]


def _rows(input_ids: Any) -> list[list[int]]:
    """One row or several as lists, from lists, arrays or MindSpore tensors."""
    ids = input_ids.asnumpy() if hasattr(input_ids, "asnumpy") else input_ids
    if len(ids) == 0:
        raise ModelError("the prompt is empty", where="generate")
    if not isinstance(ids[0], Sequence | np.ndarray):
        ids = [ids]
    return [[int(token) for token in row] for row in ids]
