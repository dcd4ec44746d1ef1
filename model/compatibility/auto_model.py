"""MindFormers' interface: AutoConfig, AutoTokenizer, AutoModel, and the pipeline that continues texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from model.config.beside_checkpoint import check_beside
from model.config.hf_config import load_hf_config
from model.config.load_config import load_config
from model.data.tokenizer import Tokenizer, read_tokenizer
from model.devices.device_name import DeviceName, parse_device
from model.errors import ModelError
from model.inference.generate import Generator
from model.inference.sampling import Sampling
from model.network.build import build, initialise
from model.parallel.distributed import open_alone
from model.parallel.mesh import Place, Strategy
from model.weights.checkpoint import load_whole
from model.weights.hub import checkpoint_file, model_file, model_folder, tokenizer_file
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import find_preset

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoTokenizer",
    "PretrainedModel",
    "TextGenerationPipeline",
    "pipeline",
]


class PretrainedModel:
    """`generate` of MindFormers' models; the network itself is `.network`, a MindSpore Cell."""

    def __init__(self, network: nn.Cell, config: NetworkConfig) -> None:
        self.network, self.config = network, config
        self._generators: dict[int, Generator] = {}

    @classmethod
    def load(
        cls,
        checkpoint: Path | None,
        config: NetworkConfig,
        seed: int = 0,
        device: DeviceName | None = None,
    ) -> PretrainedModel:
        """Build the network and fill it from a checkpoint file, or from the seed.

        On `device`, or the one that MindSpore is set to. Raises ModelError, see `use_device`.
        """
        if checkpoint is not None:
            check_beside(config, checkpoint)
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


TASK = "text_generation"
BATCH = 8


class TextGenerationPipeline:
    """Continues texts; the options of `generate` are given here or with each call.

    ask = TextGenerationPipeline(model, tokenizer, max_length=256)
    ask(["what color is the sky?"])  ->  [{"text_generation_text": ["what color is the sky? blue"]}]
    """

    def __init__(
        self, model: PretrainedModel, tokenizer: Tokenizer, *, batch_size: int = BATCH, **options: Any
    ) -> None:
        tokenizer.check(model.config, "tokenizer")
        self.model, self.tokenizer = model, tokenizer
        self._batch_size, self._options = batch_size, options

    def __call__(self, inputs: str | Sequence[str], **options: Any) -> list[dict[str, list[str]]]:
        """One result for each text, in their order; texts are answered `batch_size` at a time."""
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        merged = {**self._options, **options}
        return [{f"{TASK}_text": [answer]} for answer in self._answers(texts, merged)]

    def _answers(self, texts: Sequence[str], options: dict[str, Any]) -> Iterator[str]:
        for start in range(0, len(texts), self._batch_size):
            ids = self.tokenizer.encode_batch(texts[start : start + self._batch_size])
            yield from map(self.tokenizer.decode, self.model.generate(ids, **options))


def pipeline(
    task: str = TASK,
    model: PretrainedModel | str | Path = "bloom_560m",
    tokenizer: Tokenizer | str | Path | None = None,
    *,
    device: str | None = None,
    **options: Any,
) -> TextGenerationPipeline:
    """A pipeline from a model, or the name or folder of one; the tokenizer is that one's own by default.

    `device` as for `AutoModel`; a model that is loaded already has its own.
    """
    if task != TASK:
        raise ModelError(f"there is no task {task!r}", where="pipeline", remedy=f"there is {TASK}")
    if isinstance(model, PretrainedModel):
        if tokenizer is None:
            raise ModelError("needs a tokenizer", where="pipeline", remedy="give tokenizer=")
        if device is not None:
            what = f"is {device!r}, but the model is loaded already"
            raise ModelError(what, where="device", remedy="give it to AutoModel")
    elif tokenizer is None:
        tokenizer = model
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    if not isinstance(model, PretrainedModel):
        model = AutoModel.from_pretrained(model, device=device)
    return TextGenerationPipeline(model, tokenizer, **options)


class AutoConfig:
    """The config of a model."""

    @staticmethod
    def from_pretrained(name: str | Path, **overrides: Any) -> NetworkConfig:
        """From a yaml of ours, a config.json, a folder with one of them, a preset, or a name.

        A short name (`bloom_560m`) gives the preset, without any download. Fields can be overridden.
        """
        path, text = Path(name), str(name)
        if path.is_file():
            return load_hf_config(path, overrides) if path.suffix == ".json" else load_config(path, overrides)
        if path.is_dir():
            own = path / "config.yaml"
            if own.is_file():
                return load_config(own, overrides)
            return load_hf_config(model_file(path, "config.json"), overrides)
        if find_preset(text) is not None:
            return load_config(text, overrides)
        return load_hf_config(model_file(name, "config.json"), overrides)


class AutoTokenizer:
    """The tokenizer of a model."""

    @staticmethod
    def from_pretrained(name: str | Path) -> Tokenizer:
        """From a tokenizer.json, a folder with one, or a name; the weights are not downloaded for it."""
        return read_tokenizer(tokenizer_file(name))


class AutoModel:
    """A whole network with its weights.

    On the device that MindSpore is set to, by `mindspore.set_device` or else by its own default, which is
    Ascend where MindSpore finds one; or on `device`: "cpu", "Ascend:1". A process has one device: another one
    than that in use is refused with a ModelError.
    """

    @staticmethod
    def from_pretrained(name: str | Path, *, device: str | None = None, **overrides: Any) -> PretrainedModel:
        """From a folder of either form or a name (`model.weights.hub`); fields of the config can change."""
        where, folder = _device(device), model_folder(name)
        config = load_config(folder / "config.yaml", overrides)
        return PretrainedModel.load(checkpoint_file(folder), config, device=where)

    @staticmethod
    def from_config(
        config: NetworkConfig, checkpoint: str | Path | None = None, *, device: str | None = None
    ) -> PretrainedModel:
        """From a config, with the weights of a checkpoint file, or freshly drawn."""
        where = _device(device)
        return PretrainedModel.load(None if checkpoint is None else Path(checkpoint), config, device=where)


def _device(text: str | None) -> DeviceName | None:
    return None if text is None else parse_device(text, "device")
