"""The tokenizer of a job: the one given, else the one that belongs to its weights or its data.

A new one is only for weights that start from nothing: others know the ids of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from model.config.settings import Settings
from model.errors import ModelError
from orchestrator.formats.tokenizer_files import (
    TOKENIZER,
    beside_data,
    beside_weights,
    made_with_another,
    made_with_template,
    same_ids,
    sha256_of,
)

__all__ = ["check_data", "check_weights_tokenizer", "choose_tokenizer", "tell_template", "tokenizer_beside"]


def choose_tokenizer(settings: Settings, data: Path | None) -> Path | None:
    """The tokenizer.json that the job uses; None where a new one is trained. `data` is its MindRecord.

    Raises ModelError: there is none where there must be one, or the one given contradicts the weights'.
    """
    load = Path(settings.checkpoint.load) if settings.checkpoint.load is not None else None
    given = Path(settings.data.tokenizer) if settings.data.tokenizer else None
    if load is not None and not load.exists():
        raise ModelError("there is no such checkpoint file", where=str(load), remedy="see checkpoint.load")
    if given is not None:
        if load is not None:
            check_weights_tokenizer(given, load)
        return given
    of_weights = beside_weights(load, TOKENIZER) if load is not None else None
    found = of_weights or (beside_data(data) if data is not None else None)
    if found is not None:
        if load is not None:
            _tell(f"data.tokenizer is not given: {found} is taken")
        return found
    if load is not None:
        raise ModelError(
            f"is missing, and there is no {TOKENIZER} beside {load}",
            where="data.tokenizer",
            remedy="name the one that the weights were trained with",
        )
    if data is not None:
        raise ModelError(
            f"is missing, and there is no {TOKENIZER} beside the data",
            where="data.tokenizer",
            remedy="name the one that the data was prepared with",
        )
    return None


def tokenizer_beside(load: Path, remedy: str) -> Path:
    """The tokenizer.json that belongs to a checkpoint; ModelError where there is none."""
    found = beside_weights(load, TOKENIZER)
    if found is None:
        raise ModelError(f"there is no {TOKENIZER} beside the checkpoint", where=str(load), remedy=remedy)
    return found


def check_weights_tokenizer(given: Path, load: Path) -> None:
    """Raise ModelError where a tokenizer gives tokens other ids than the one beside the weights."""
    own = beside_weights(load, TOKENIZER)
    if own is not None and given.is_file() and not same_ids(given, own):
        raise ModelError(
            f"gives tokens other ids than {own}, which lies beside the checkpoint",
            where=str(given),
            remedy="take the tokenizer that the weights were trained with",
        )


def check_data(data: Path, tokenizer: Path) -> None:
    """Raise ModelError where a MindRecord was made with another tokenizer; one without a summary is taken."""
    others = made_with_another(data, tokenizer) if tokenizer.is_file() else {}
    for file, sha256 in others.items():
        mine = sha256_of(tokenizer)
        raise ModelError(
            f"was made with another tokenizer than {tokenizer} (sha256 {sha256[:12]}, not {mine[:12]})",
            where=str(file),
            remedy="take one tokenizer for weights and data, or prepare the data again",
        )


def tell_template(data: Path, template: str) -> None:
    """A line on stderr where a MindRecord was prepared with another template than the job names."""
    for file, other in made_with_template(data, template).items():
        _tell(f"{file} was prepared with template {other}, but data.template is {template}")


def _tell(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")
    sys.stderr.flush()
