"""Sampling: how the next token is chosen from the logits; NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config.yaml_table import fill
from model.errors import ModelError
from orchestrator.config.job_fields import Count
from orchestrator.config.schema import key
from orchestrator.config.worker_config import Decoding
from orchestrator.families.network_config import NetworkConfig

__all__ = ["Sampling", "choose", "penalised"]


@dataclass(frozen=True, slots=True)
class Sampling(Decoding):
    """How an answer is decoded; what a job says of it, and what only this machine's commands can.

    An answer ends at eos, after max_new_tokens, or where prompt and answer together have max_length
    tokens; either limit may be None.
    """

    max_new_tokens: Count | None = key(64, "tokens of an answer at most")  # type: ignore[assignment]
    max_length: Count | None = key(None, "tokens of prompt and answer together at most")
    num_beams: Count = key(1, "above 1, search with so many beams")

    @staticmethod
    def said_by(options: object) -> Sampling:
        """What a section of a job, or the options of a command line, say. Raises ModelError, see `check`."""
        names = (item.name for item in fields(Sampling))
        sampling = Sampling(**{name: getattr(options, name) for name in names if hasattr(options, name)})
        sampling.check()
        return sampling

    @staticmethod
    def of(config: NetworkConfig, **given: Any) -> Sampling:
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
        fill(Sampling, asdict(self), where="decoding")
        if self.num_beams > 1 and self.temperature > 0:
            what = f"num_beams {self.num_beams} takes the likeliest, so temperature must be 0"
            raise ModelError(what, where="decoding")


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
