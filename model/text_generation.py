"""Texts in, texts out: MindFormers' `pipeline` and `TextGenerationPipeline`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from model.auto import AutoModel, AutoTokenizer
from model.errors import ModelError
from model.pretrained import PretrainedModel
from model.tokenizer import Tokenizer

__all__ = ["TextGenerationPipeline", "pipeline"]

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
    if tokenizer is None and isinstance(model, PretrainedModel):
        raise ModelError("needs a tokenizer", where="pipeline", remedy="give tokenizer=")
    if device is not None and isinstance(model, PretrainedModel):
        what = f"is {device!r}, but the model is loaded already"
        raise ModelError(what, where="device", remedy="give it to AutoModel")
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = AutoTokenizer.from_pretrained(model if tokenizer is None else tokenizer)
    if not isinstance(model, PretrainedModel):
        model = AutoModel.from_pretrained(model, device=device)
    return TextGenerationPipeline(model, tokenizer, **options)
