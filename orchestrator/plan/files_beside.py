"""Files beside a job's checkpoint and data: the tokenizer that they give it, and what in them contradicts it.

Weights, tokenizer, network and token ids belong together, and nothing fails where they do not: the loss is
only worse, the answers nonsense. So what this machine can see is compared before a host is touched: files
that are sent, those of a checkpoint that is distributed, and all of them where the hosts are this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.config.job import Job
from orchestrator.config.job_network import network_of
from orchestrator.config.mindformers_keys import RENAMED
from orchestrator.config.tasks import TRAINING
from orchestrator.config.yaml_messages import plain, show
from orchestrator.config.yaml_reader import read_yaml
from orchestrator.core.errors import ConfigError, Problem
from orchestrator.families.network_config import NetworkConfig
from orchestrator.families.registry import values_of_hf
from orchestrator.formats.foreign_files import read_small_json
from orchestrator.formats.tokenizer_files import (
    TOKENIZER,
    beside_data,
    beside_weights,
    is_tokenizer,
    made_with_another,
    made_with_template,
    recorded_tokenizer,
    same_ids,
    sha256_of,
)

__all__ = ["FilesBeside"]

_LARGEST_CONFIG = 1 << 20
_MAKE_TOKENIZER = "name the file of Hugging Face's tokenizers, which has a `model` with a `vocab`"


@dataclass(frozen=True)
class FilesBeside:
    """What lies beside the checkpoint and the data of `job`, as far as this machine sees them.

    `hosts_are_here`: absolute paths, which are the hosts', mean files of this machine.
    """

    job: Job
    hosts_are_here: bool = False

    @cached_property
    def tokenizer(self) -> Path | None:
        """The tokenizer.json to take where the job names none but starts from weights.

        That beside the weights, else that beside the MindRecord; None where the job names one, starts from
        nothing, or only its hosts can tell. Raises ConfigError: a training finds none, and a new one would
        fit no weights. (A job that answers makes none; without one its workers say so.)
        """
        job = self.job
        if job.checkpoint.load is None or (job.data and job.data.tokenizer) or self._weights is None:
            return None
        found = self._of_weights(TOKENIZER)
        if found is None and job.task in TRAINING:
            found = self._of_data()
        if found is not None or self._data_is_elsewhere or job.task not in TRAINING:
            return found
        what = f"is missing, and there is no {TOKENIZER} beside {self._weights}"
        raise _refused(job, ("data", "tokenizer"), what, "name the one that the weights were trained with")

    def problems(self) -> Iterator[Problem]:
        """What does not belong together: the job's network and tokenizer, its weights, its data."""
        yield from self._other_network()
        mine = self._mine()
        if mine is not None and not is_tokenizer(mine):
            yield Problem(self._where_tokenizer(), plain(f"{mine} is no tokenizer.json"), _MAKE_TOKENIZER)
        else:
            yield from self._other_tokenizer()

    def notes(self) -> Iterator[str]:
        """What is assumed or doubtful, a line each."""
        job = self.job
        if self.tokenizer is not None:
            yield f"data.tokenizer is not given: {self.tokenizer} is taken"
        elif job.task in TRAINING and job.checkpoint.load and job.data and not job.data.tokenizer:
            yield (
                f"data.tokenizer is not given: the hosts take the {TOKENIZER} beside {job.checkpoint.load}, "
                "else that beside the data"
            )
        yield from self._doubtful_data()
        yield from self._other_template()
        template = job.data.template or "none" if job.data else "alpaca"
        for config in self._configs() if job.task not in TRAINING else ():
            trained = config.values.get("prompt_template", template)
            if trained != template and "prompt_template" not in (job.model.overrides if job.model else {}):
                yield f"data.template is {template}, but {config.path} says {trained}, of the training"

    def _doubtful_data(self) -> Iterator[str]:
        mine, of_data = self._mine(), self._of_data()
        if mine is None or of_data is None or self._data is None or recorded_tokenizer(self._data):
            return
        if not same_ids(mine, of_data):
            yield f"{of_data} lies beside the data, but {mine} is taken, which gives tokens other ids"

    def _other_template(self) -> Iterator[str]:
        data = self.job.data
        template = data.template or "none" if data else "alpaca"
        others = made_with_template(self._data, template) if self._data is not None else {}
        for file, other in others.items():
            yield plain(f"{file} was prepared with template {other}, but data.template is {template}")

    @cached_property
    def _weights(self) -> Path | None:
        """The checkpoint, where it is a file or folder of this machine."""
        given = self.job.checkpoint.load
        path = self.job.whole_checkpoint or (self._here(given) if given else None)
        return path if path is not None and path.exists() else None

    def _here(self, text: str) -> Path | None:
        local = self.job.local_path(text)
        return Path(text) if local is None and self.hosts_are_here else local

    @property
    def _data(self) -> Path | None:
        """The MindRecord, or the folder of them, where it is of this machine."""
        given = self.job.data.path if self.job.data else None
        path = self._here(given) if given else None
        is_ids = path is not None and (path.suffix == ".mindrecord" or path.is_dir())
        return path if is_ids and path is not None and path.exists() else None

    @property
    def _data_is_elsewhere(self) -> bool:
        given = self.job.data.path if self.job.data and self.job.task in TRAINING else None
        is_ids = given is not None and (given.endswith(".mindrecord") or not Path(given).suffix)
        return is_ids and given is not None and self._here(given) is None

    def _of_weights(self, name: str) -> Path | None:
        return beside_weights(self._weights, name) if self._weights is not None else None

    def _of_data(self) -> Path | None:
        return beside_data(self._data) if self._data is not None else None

    def _configs(self) -> Iterator[_Config]:
        for name in ("config.yaml", "config.json"):
            path = self._of_weights(name)
            config = _read_config(path) if path is not None else None
            if config is not None:
                yield config

    def _other_network(self) -> Iterator[Problem]:
        configs = list(self._configs()) if self.job.model else []
        network = self._network() if configs else None
        for config in configs if network is not None else ():
            yield from self._differences(config, network)

    def _network(self) -> NetworkConfig | None:
        job = self.job
        assert job.model is not None
        path = job.model.preset if job.local_path(job.model.preset) is None else None
        return None if path is not None and not self.hosts_are_here else network_of(job)

    def _differences(self, config: _Config, network: NetworkConfig | None) -> Iterator[Problem]:
        job, wanted = self.job, config.values
        assert job.model is not None and network is not None
        for key in ("family", *network.telling()):
            mine = network.family.name if key == "family" else getattr(network, key, None)
            if key not in wanted or mine is None or wanted[key] == mine:
                continue
            own = key in job.model.overrides
            where = job.where("model", "overrides", key) if own else job.where("model", "preset")
            what = (
                f"{key} is {show(mine)}, but {show(wanted[key])} by {config.where(key)}, beside the weights"
            )
            remedy = f"set model.overrides.{key} to {show(wanted[key])}, or name that file as model.preset"
            yield Problem(where, plain(what), plain(remedy))

    def _mine(self) -> Path | None:
        """The tokenizer that the job uses, where this machine sees it."""
        data = self.job.data
        path = self._here(data.tokenizer) if data and data.tokenizer else self.tokenizer
        return path if path is not None and path.is_file() else None

    def _where_tokenizer(self) -> str:
        named = self.job.data is not None and self.job.data.tokenizer is not None
        return self.job.where("data", "tokenizer") if named else self.job.where("checkpoint", "load")

    def _other_tokenizer(self) -> Iterator[Problem]:
        job, mine = self.job, self._mine()
        if mine is None:
            return
        where = self._where_tokenizer()
        remedy = "take one tokenizer for weights and data: name the tokenizer.json that belongs to them"
        of_weights = self._of_weights(TOKENIZER)
        if of_weights is not None and not same_ids(mine, of_weights):
            what = f"{mine} gives tokens other ids than {of_weights}, which lies beside the checkpoint"
            yield Problem(where, plain(what), remedy)
        if job.task not in TRAINING or self._data is None:
            return
        for file, recorded in made_with_another(self._data, mine).items():
            what = f"{file} was made with another tokenizer than {mine} "
            what += f"(sha256 {recorded[:12]}, not {sha256_of(mine)[:12]})"
            yield Problem(where, plain(what), f"{remedy}, or prepare the data again")


@dataclass(frozen=True)
class _Config:
    """The fields of a network that a file tells, under our names, and where each stands."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def where(self, key: str) -> str:
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)


def _read_config(path: Path) -> _Config | None:
    """Our config.yaml, MindFormers', or transformers' config.json; None where it is none of them."""
    return _read_json(path) if path.suffix == ".json" else _read_yaml(path)


def _read_yaml(path: Path) -> _Config | None:
    try:
        file = read_yaml(path)
    except ConfigError:
        return None  # some other config.yaml; the worker does not read it either
    at: tuple[str, ...] = ("model", "model_config")
    table = file.get(at)
    if not isinstance(table, dict):
        table, at = file.data, ()
    values = {RENAMED.get(key, key): value for key, value in table.items()}
    lines = {RENAMED.get(key, key): file.line((*at, key)) for key in table}
    # All who write one write these; what lacks them is part of something else.
    return (
        _Config(path, values, lines) if values.keys() >= {"hidden_size", "num_layers", "num_heads"} else None
    )


def _read_json(path: Path) -> _Config | None:
    values = values_of_hf(read_small_json(path, _LARGEST_CONFIG))
    return None if values is None else _Config(path, values, {})


def _refused(job: Job, loc: tuple[str, ...], what: str, remedy: str) -> ConfigError:
    return ConfigError([Problem(job.where(*loc), plain(what), remedy)])
