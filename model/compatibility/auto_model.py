"""MindFormers' interface: AutoConfig, AutoTokenizer, AutoModel, and the pipeline that continues texts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from model.compatibility.editable_config import (
    BloomConfig,
    checkpoint_of_config,
    editable,
    parallel_of,
    plain,
)
from model.compatibility.script_context import joined_world
from model.config.beside_checkpoint import check_beside
from model.config.hf_config import load_hf_config
from model.config.load_config import load_config
from model.data.tokenizer import Tokenizer, read_tokenizer
from model.devices.device_choice import use_device
from model.devices.device_name import DeviceName, parse_device
from model.errors import ModelError
from model.inference.generate import Generator
from model.inference.sampling import Sampling
from model.network.build import build, initialise
from model.parallel.distributed import Session, open_alone
from model.parallel.mesh import Strategy, start_groups
from model.weights.checkpoint import load_whole
from model.weights.hub import checkpoint_file, model_file, model_folder, tokenizer_file
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import find_preset, hub_names

__all__ = [
    "AutoConfig",
    "AutoModel",
    "AutoTokenizer",
    "BloomLMHeadModel",
    "PretrainedModel",
    "TextGenerationPipeline",
    "pipeline",
]


logger = logging.getLogger(__name__)


class PretrainedModel(nn.Cell):
    """A network with `generate`, as MindFormers' models have it; the network itself is `.network`.

    A Cell, so that MindSpore's `load_param_into_net` and `Model` take it: (B, S) ids -> (B, S, V) logits.
    """

    def __init__(self, network: nn.Cell, config: NetworkConfig) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.config = network, config
        self._generators: dict[int, Generator] = {}

    def construct(self, input_ids: Any) -> Any:
        return self.network(input_ids)

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
        made = cls.__new__(cls)
        config = plain(config)
        if checkpoint is not None:
            check_beside(config, checkpoint)
        PretrainedModel.__init__(made, _filled(config, open_alone(device), checkpoint, seed), config)
        return made

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


def _filled(config: NetworkConfig, session: Session, checkpoint: Path | None, seed: int = 0) -> nn.Cell:
    """This process's part of the network, with its weights."""
    network = build(config, session.strategy, session.place, session.groups)
    if checkpoint is None:
        initialise(network, config, seed, session.strategy, session.place)
    else:
        load_whole(checkpoint, list(network.get_parameters()), session.strategy, session.place)
    return network.set_train(False)


class BloomLMHeadModel(PretrainedModel):
    """MindFormers' class: a Bloom by its configuration, with the weights of its checkpoint_name_or_path.

    Those are a file, a folder or a model's name; without them they are drawn. Where `init_context` has joined
    several ranks, each makes its part, by the configuration's parallel_config.
    """

    def __init__(self, config: NetworkConfig | None = None) -> None:
        config = config if config is not None else BloomConfig()
        said = checkpoint_of_config(config)
        self._make(config, checkpoint_file(said) if said else None)

    @classmethod
    def of_rank(cls, config: NetworkConfig, checkpoint: Path | None) -> BloomLMHeadModel:
        """This rank's part, with what it has of the weights of a file, of which no more is read."""
        made = cls.__new__(cls)
        made._make(config, checkpoint)
        return made

    def _make(self, config: NetworkConfig, checkpoint: Path | None) -> None:
        session = _session(config)
        if checkpoint is not None:
            check_beside(plain(config), checkpoint)
        super().__init__(_filled(plain(config), session, checkpoint), plain(config))


def _session(config: NetworkConfig) -> Session:
    """Alone, or this rank's among those that have joined.

    A parallel_config of ones, as of a script that gives none, has each rank hold the whole network, as
    MindFormers does.
    """
    rank, size = joined_world()
    said = parallel_of(config)
    if size == 1:
        return open_alone(None)
    if said.data_parallel * said.model_parallel * said.pipeline_stage == 1:
        remedy = f"parallel_config=TransformerOpParallelConfig(model_parallel={size}) cuts it"
        logger.warning("note: each of the %d ranks has the whole network; %s", size, remedy)
        return open_alone(None)
    if said.pipeline_stage > 1:
        raise ModelError("answers come from one stage", where="parallel_config.pipeline_stage", remedy="1")
    strategy = Strategy(
        data_parallel=said.data_parallel,
        model_parallel=said.model_parallel,
        vocab_size=config.vocab_size,
        family=config.family,
    )
    strategy.check(size)
    place = strategy.place(rank)
    return Session(strategy, place, start_groups(strategy, place))


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

        A short name (`bloom_560m`) gives the preset, without any download; its checkpoint_name_or_path is
        that name, so that `AutoModel.from_config` loads its weights. Fields can be overridden and assigned.
        """
        checkpoint = str(name) if str(name) in hub_names() else ""
        return editable(AutoConfig._read(name, overrides), checkpoint)

    @staticmethod
    def _read(name: str | Path, overrides: dict[str, Any]) -> NetworkConfig:
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
        """From a folder of either form or a name (`model.weights.hub`); fields of the config can change.

        Of several ranks each has the whole network: a folder says nothing of how to cut it. See from_config.
        """
        where, folder = _device(device), model_folder(name)
        config = load_config(folder / "config.yaml", overrides)
        return PretrainedModel.load(checkpoint_file(folder), config, device=where)

    @staticmethod
    def from_config(
        config: NetworkConfig, checkpoint: str | Path | None = None, *, device: str | None = None
    ) -> PretrainedModel:
        """From a config, with the weights of a checkpoint file, or of its checkpoint_name_or_path.

        Without either they are freshly drawn. Where `init_context` has joined several ranks, each makes and
        reads its part, by the configuration's parallel_config.
        """
        where, said = _device(device), checkpoint_of_config(config)
        path = Path(checkpoint) if checkpoint is not None else checkpoint_file(said) if said else None
        if joined_world()[1] == 1:
            return PretrainedModel.load(path, config, device=where)
        if where is not None:
            use_device(where, "device")
        return BloomLMHeadModel.of_rank(config, path)


def _device(text: str | None) -> DeviceName | None:
    return None if text is None else parse_device(text, "device")
