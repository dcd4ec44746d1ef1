"""A model loaded for inference: the network that continues ids, its tokenizer, its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config.beside_checkpoint import check_beside
from model.config.load_config import load_config
from model.config.settings import Settings, Worker
from model.data.tokenizer import Tokenizer, load_tokenizer
from model.data.tokenizer_choice import check_weights_tokenizer, choose_tokenizer, tokenizer_beside
from model.devices.device_name import DeviceName
from model.errors import ModelError
from model.inference.generate import Generator, text_pieces
from model.inference.sampling import Sampling
from model.network.build import build
from model.parallel.distributed import Session, open_alone, open_session, strategy_of
from model.weights.checkpoint import load_rank_weights, load_whole, newest_shard
from model.weights.hub import weights_at
from orchestrator.families.network_config import NetworkConfig
from orchestrator.formats.tokenizer_files import beside_weights

__all__ = ["Model", "checkpoint_of", "config_of", "open_model", "open_rank"]


@dataclass(frozen=True, slots=True)
class Model:
    """One model, or this rank's part of it, that is ready to answer."""

    generator: Generator
    tokenizer: Tokenizer
    config: NetworkConfig

    def pieces(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The answer to a wrapped prompt as it comes; a beam search's in one piece."""
        ids = self.tokenizer.encode(prompt)
        if sampling.num_beams > 1:
            return text_pieces(self.tokenizer, self.generator.generate([ids], sampling)[0])
        return text_pieces(self.tokenizer, self.generator.stream(ids, sampling))


def open_model(
    checkpoint: Path,
    config_file: Path | None = None,
    tokenizer_file: Path | None = None,
    *,
    config: NetworkConfig | None = None,
    device: DeviceName | None = None,
) -> Model:
    """From a whole checkpoint and the two files beside it, on `device`, or the one that MindSpore is set to.

    Raises ModelError.
    """
    config = config or config_of(checkpoint, config_file)
    if tokenizer_file is not None:
        check_weights_tokenizer(tokenizer_file, checkpoint)
    chosen = tokenizer_file or tokenizer_beside(checkpoint, "name it with --tokenizer")
    tokenizer = load_tokenizer(chosen, config)
    return Model(_generator(config, open_alone(device), checkpoint, None), tokenizer, config)


def open_rank(settings: Settings, worker: Worker, batch: int) -> tuple[Model, Session]:
    """Check the job, join the other ranks and load this rank's part of the weights.

    A whole checkpoint is mapped and each rank takes its slices of it (load, then shard); of a folder of
    shards each rank reads its own (shard, then load). Raises ModelError.
    """
    config, load = settings.network(), checkpoint_of(settings)
    strategy = strategy_of(settings, worker)
    if strategy.pipeline_stage > 1:
        raise ModelError(
            f"task {settings.task} has no pipeline stages, got {strategy.pipeline_stage}",
            where="parallel.pipeline_stage",
            remedy="set it to 1 and raise model_parallel",
        )
    strategy.check_network(config)
    check_beside(config, load)
    chosen = choose_tokenizer(settings, None) or tokenizer_beside(load, "name it as data.tokenizer")
    tokenizer = load_tokenizer(chosen, config)
    session = open_session(settings, worker)
    return Model(_generator(config, session, load, batch), tokenizer, config), session


def checkpoint_of(settings: Settings) -> Path:
    """The checkpoint to answer from; raises ModelError where the job names none."""
    if settings.checkpoint.load is None:
        raise ModelError("is missing", where="checkpoint.load", remedy="name the checkpoint to answer from")
    return weights_at(settings.checkpoint.load)


def config_of(
    checkpoint: Path, config_file: Path | None = None, overrides: dict[str, Any] | None = None
) -> NetworkConfig:
    """The configuration that is given, or beside a whole checkpoint, with `overrides`.

    Raises ModelError: there is none, or the one given contradicts the one beside the checkpoint.
    """
    if not checkpoint.is_file():
        raise ModelError("there is no such checkpoint file", where=str(checkpoint))
    source = config_file or beside_weights(checkpoint, "config.yaml")
    if source is None:
        what = "there is no config.yaml beside the checkpoint"
        raise ModelError(what, where=str(checkpoint), remedy="name it with --config")
    config = load_config(source, overrides)
    check_beside(config, checkpoint, source)
    return config


def _generator(config: NetworkConfig, session: Session, load: Path, batch: int | None) -> Generator:
    network = build(config, session.strategy, session.place, session.groups)
    weights = list(network.get_parameters())
    if load.is_dir():
        load_rank_weights(newest_shard(load, session.place.rank), weights, session.strategy, session.place)
    else:
        load_whole(load, weights, session.strategy, session.place)
    return Generator(network, config, batch)
