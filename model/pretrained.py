"""A network with its weights, ready to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from model.bloom import BloomLMHeadModel, build, initialise
from model.checkpointing import load_whole
from model.config import BloomConfig
from model.device_name import DeviceName
from model.errors import ModelError
from model.generation import Generator, Sampling
from model.parallel import Place, Strategy
from model.session import open_alone

__all__ = ["PretrainedModel"]


class PretrainedModel:
    """`generate` of MindFormers' models; the network itself is `.network`, a MindSpore Cell."""

    def __init__(self, network: BloomLMHeadModel, config: BloomConfig) -> None:
        self.network, self.config = network, config
        self._generators: dict[int, Generator] = {}

    @classmethod
    def load(
        cls,
        checkpoint: Path | None,
        config: BloomConfig,
        seed: int = 0,
        device: DeviceName | None = None,
    ) -> PretrainedModel:
        """Build the network and fill it from a checkpoint file, or from the seed.

        On `device`, or the one that MindSpore is set to. Raises ModelError, see `use_device`.
        """
        session = open_alone(device)
        network = build(config, session.strategy, session.place, session.groups)
        if checkpoint is None:
            initialise(network, config, seed, Strategy(), Place(0, 0, 0, 0))
        else:
            load_whole(checkpoint, list(network.get_parameters()), session.strategy, session.place)
        network.set_train(False)
        return cls(network, config)

    def set_train(self, mode: bool = True) -> PretrainedModel:
        if mode:
            self._generators.clear()  # they may hold copies of the weights
        self.network.set_train(mode)
        return self

    def generate(self, input_ids: Any, **options: Any) -> list[list[int]]:
        """Prompt and answer of every row of `input_ids`, one row or several of unequal length.

        The options are max_length (of prompt and answer), max_new_tokens, do_sample, temperature, top_k,
        top_p, seed, repetition_penalty, num_beams; what is not given, or None, the config says. An answer
        ends before the config's eos, which is not given back.
        """
        rows = _rows(input_ids)
        sampling = Sampling.of(self.config, **self._known(options))
        answers = self._generator(len(rows)).generate(rows, sampling)
        return [row + answer for row, answer in zip(rows, answers, strict=True)]

    def _known(self, options: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in options.items() if value is not None}
        for token in ("eos_token_id", "pad_token_id"):  # the page's scripts repeat what the config says
            if given.pop(token, getattr(self.config, token)) != getattr(self.config, token):
                raise ModelError(f"{token} is the config's: {getattr(self.config, token)}", where="generate")
        known = {"do_sample", *(field.name for field in fields(Sampling))}
        if not given.keys() <= known:
            unknown = ", ".join(sorted(given.keys() - known))
            raise ModelError(f"knows no {unknown}; there are {', '.join(sorted(known))}", where="generate")
        return given

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
