"""Answers to prompts: those of a job, shared out over its replicas, or one from a checkpoint file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from model.bloom import build
from model.checkpointing import load_rank_weights, load_whole, newest_shard
from model.config import BloomConfig, load_config
from model.errors import ModelError
from model.generation import Generator, Sampling, text_pieces
from model.session import Session, open_session, strategy_of
from model.settings import Settings, Worker
from model.templates import wrap
from model.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Answer", "Model", "open_model", "predict"]

BATCH = 8


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered prompt; `index` is its place in the job's list."""

    index: int
    prompt: str
    text: str


def read_prompts(settings: Settings) -> list[str]:
    """The job's prompts, then those of its file, one a line; ModelError where there is none."""
    prompts = list(settings.predict.prompts or ())
    if settings.predict.prompts_file:
        path = Path(settings.predict.prompts_file)
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(
                f"cannot be read: {error}", where=str(path), remedy="see predict.prompts_file"
            ) from error
        prompts += [line for line in lines if line.strip()]
    if not prompts:
        raise ModelError("there are none", where="predict.prompts", remedy="give prompts or prompts_file")
    return prompts


def predict(settings: Settings, worker: Worker, home: Path) -> Iterator[Answer]:
    """Answer this replica's prompts into `answers/rank_<r>.jsonl`, one line each as they are done.

    Replica d takes every data_parallel-th prompt from the d-th on. The ranks of a model group compute
    the same answers; the first of them writes, the others give and write none.
    """
    config, load = settings.bloom(), settings.checkpoint.load
    if load is None:
        raise ModelError("is missing", where="checkpoint.load", remedy="name the checkpoint to answer from")
    prompts, sampling = read_prompts(settings), _sampling(settings)
    strategy = strategy_of(settings, worker)
    if strategy.pipeline_stage > 1:
        raise ModelError(
            f"task predict has no pipeline stages, got {strategy.pipeline_stage}",
            where="parallel.pipeline_stage",
            remedy="set it to 1 and raise model_parallel",
        )
    config.check_model_parallel(strategy.model_parallel)
    tokenizer = _tokenizer(settings, config, Path(load))
    session = open_session(settings, worker)
    generator = _generator(config, session, Path(load))
    mine = list(enumerate(prompts))[session.place.dp :: session.strategy.data_parallel]
    answers = _answers(mine, generator, tokenizer, config, sampling)
    if session.place.mp > 0:
        for _ in answers:
            pass
        return
    path = home / "answers" / f"rank_{worker.rank}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for answer in answers:
            file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
            file.flush()
            yield answer


def _sampling(settings: Settings) -> Sampling:
    options = settings.predict
    sampling = Sampling(
        options.max_new_tokens, options.temperature, options.top_k, options.top_p, options.seed
    )
    sampling.check()
    return sampling


def _tokenizer(settings: Settings, config: BloomConfig, load: Path) -> Tokenizer:
    if settings.data.tokenizer:
        return load_tokenizer(Path(settings.data.tokenizer), config)
    return load_tokenizer(_sibling(load, "tokenizer.json", "name it as data.tokenizer"), config)


def _sibling(checkpoint: Path, name: str, remedy: str) -> Path:
    path = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / name
    if not path.is_file():
        raise ModelError(f"there is no {name} beside the checkpoint", where=str(checkpoint), remedy=remedy)
    return path


def _generator(config: BloomConfig, session: Session, load: Path) -> Generator:
    network = build(config, session.strategy, session.place, session.groups)
    weights = list(network.get_parameters())
    if load.is_dir():
        load_rank_weights(newest_shard(load, session.place.rank), weights, session.strategy, session.place)
    else:
        load_whole(load, weights, session.strategy, session.place)
    return Generator(network, config, BATCH)


def _answers(
    prompts: list[tuple[int, str]],
    generator: Generator,
    tokenizer: Tokenizer,
    config: BloomConfig,
    sampling: Sampling,
) -> Iterator[Answer]:
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        ids = [tokenizer.encode(wrap(prompt, template=config.prompt_template)) for _, prompt in part]
        for (index, prompt), new in zip(part, generator.generate(ids, sampling), strict=True):
            yield Answer(index, prompt, tokenizer.decode(new).strip())


@dataclass(frozen=True, slots=True)
class Model:
    """What it takes to answer: a network that continues ids, its tokenizer, its config."""

    generator: Generator
    tokenizer: Tokenizer
    config: BloomConfig

    def pieces(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The answer to a wrapped prompt as it comes; a beam search's in one piece."""
        ids = self.tokenizer.encode(prompt)
        if sampling.num_beams > 1:
            return text_pieces(self.tokenizer, self.generator.generate([ids], sampling)[0])
        return text_pieces(self.tokenizer, self.generator.stream(ids, sampling))


def open_model(
    checkpoint: Path, config_file: Path | None = None, tokenizer_file: Path | None = None
) -> Model:
    """On this machine's CPU, from a whole checkpoint and the two files beside it."""
    if not checkpoint.is_file():
        raise ModelError("there is no such checkpoint file", where=str(checkpoint))
    config = load_config(config_file or _sibling(checkpoint, "config.yaml", "name it with --config"))
    vocabulary = tokenizer_file or _sibling(checkpoint, "tokenizer.json", "name it with --tokenizer")
    tokenizer = load_tokenizer(vocabulary, config)
    session = open_session(Settings(), Worker())
    network = build(config, session.strategy, session.place, session.groups)
    load_whole(checkpoint, list(network.get_parameters()), session.strategy, session.place)
    return Model(Generator(network, config), tokenizer, config)
