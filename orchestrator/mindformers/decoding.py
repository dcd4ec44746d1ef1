"""How answers are decoded: MindFormers says it of the model, an answering job in its section `predict`."""

from __future__ import annotations

from typing import Any

from orchestrator.mindformers.keys import DECODING
from orchestrator.mindformers.source import Source

__all__ = ["decoding_of", "predict_of"]

_WHERE = ("model", "model_config")
# `do_sample` decides over the temperature; `batch_size` is the number of prompts answered at once.
_PREDICT = ("top_k", "top_p", "repetition_penalty", "batch_size")


def decoding_of(source: Source) -> dict[str, Any]:
    """What a model that is trained is told about answering; it is kept beside its weights."""
    return _taken(source, tuple(DECODING), ("model", "overrides"))


def predict_of(source: Source) -> dict[str, Any]:
    """The section `predict` of a job that answers, decoding as MindFormers does where nothing is said."""
    section = {"prompts": [], "max_new_tokens": 64, **_taken(source, _PREDICT, ("predict",))}
    if (seed := source.take("seed", to=("predict", "seed"))) is not None:
        section["seed"] = seed
    temperature = source.take(*_WHERE, "temperature", to=("predict", "temperature"))
    if source.take(*_WHERE, "do_sample", to=("predict", "temperature")) is False:
        return {**section, "temperature": 0.0, "top_k": 0, "top_p": 1.0}
    if source.file.get((*_WHERE, "num_beams")) == 1:
        source.take(*_WHERE, "num_beams")
    drawn = DECODING["temperature"] if temperature is None else temperature
    return {**section, "temperature": drawn, "top_k": section.get("top_k", DECODING["top_k"])}


def _taken(source: Source, keys: tuple[str, ...], to: tuple[str, str] | tuple[str]) -> dict[str, Any]:
    found = {key: source.take(*_WHERE, key, to=(*to, key)) for key in keys}
    return {key: value for key, value in found.items() if value is not None}
