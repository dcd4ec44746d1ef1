"""The tokenizer, a byte-level BPE: the `tokenizer.json` of a published model, or one trained on the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from model.errors import ModelError
from orchestrator.families.network_config import NetworkConfig
from orchestrator.formats.foreign_files import lfs_pointer, open_regular

__all__ = ["SPECIAL_TOKENS", "Tokenizer", "load_tokenizer", "read_tokenizer", "train_tokenizer"]

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")


class Tokenizer:
    """Text <-> ids; adds no special tokens of its own."""

    def __init__(self, inner: tokenizers.Tokenizer, source: str | None = None) -> None:
        self._inner, self._source = inner, source

    @staticmethod
    def from_json(text: str) -> Tokenizer:
        """From the content of a `tokenizer.json`."""
        return Tokenizer(tokenizers.Tokenizer.from_str(text), text)

    @property
    def eos(self) -> int:
        """The id of `</s>`, which ends an answer."""
        found = self._inner.token_to_id("</s>")
        if found is None:
            raise ModelError(
                "has no token </s>", where="tokenizer", remedy="take that of the published model"
            )
        return int(found)

    def _special(self, *words: str) -> int | None:
        found = (self._inner.token_to_id(word) for word in words)
        return next((int(number) for number in found if number is not None), None)

    @property
    def eos_token_id(self) -> int:
        return self.eos

    @property
    def pad_token_id(self) -> int:
        """The id of `<pad>`, or of eos where there is none."""
        found = self._special("<pad>")
        return self.eos if found is None else found

    @property
    def bos_token_id(self) -> int | None:
        return self._special("<s>")

    @property
    def unk_token_id(self) -> int | None:
        return self._special("<unk>")

    def encode(self, text: str) -> list[int]:
        """The ids of a text; ModelError where it holds what is no character."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each, on as many threads as RAYON_NUM_THREADS says; ModelError as of `encode`."""
        try:
            found = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeError):
            if all(_is_encodable(text) for text in texts):
                raise
            what = "holds half a surrogate pair, which is no character"
            raise ModelError(what, where="text", remedy="was it typed or saved in UTF-8?") from None
        return [item.ids for item in found]

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        max_length: int | None = None,
        padding: bool | str = False,
        truncation: bool | str = False,
        return_tensors: str | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """`input_ids` and `attention_mask` of one text, or lists of them of several.

        The options are those of MindFormers' and transformers' tokenizers: `truncation` to `max_length`,
        `padding` on the right up to the longest or to "max_length", `return_tensors` "np" or "ms". There are
        no special tokens to add. ModelError: an option that would change the ids and is not known.
        """
        no_effect = {"add_special_tokens", "return_attention_mask", "return_token_type_ids"}
        if unknown := sorted(more.keys() - no_effect):
            raise ModelError(f"knows no option {', '.join(unknown)}", where="tokenizer")
        is_one = isinstance(text, str)
        rows = [self.encode(text)] if isinstance(text, str) else self.encode_batch(text)
        if truncation and max_length is not None:
            rows = [row[:max_length] for row in rows]
        longest = max(map(len, rows), default=0)
        room = max(longest, max_length or 0) if padding == "max_length" else longest if padding else 0
        masks = [[1] * len(row) + [0] * (room - len(row)) for row in rows]
        if room:
            rows = [row + [self.pad_token_id] * (room - len(row)) for row in rows]
        found = {"input_ids": rows, "attention_mask": masks}
        if return_tensors is not None:
            return {name: _as_tensor(value, return_tensors) for name, value in found.items()}
        return {name: value[0] if is_one else value for name, value in found.items()}

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> Any:
        """The text of one row of ids, or a list of them of several rows."""
        if len(ids) and hasattr(ids[0], "__len__"):
            return [self.decode(row, skip_special_tokens) for row in ids]
        plain = [int(token) for token in ids]
        return str(self._inner.decode(plain, skip_special_tokens=skip_special_tokens))

    def to_json(self) -> str:
        """The content of its `tokenizer.json`: that of the file that it was read from, to the byte."""
        return self._source if self._source is not None else str(self._inner.to_str(pretty=False))

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self._inner.get_vocab(with_added_tokens=True).values()) + 1

    def check(self, config: NetworkConfig, where: str) -> None:
        """Raise ModelError unless every id has a row in the embedding, and `</s>` is what ends an answer."""
        if self.vocab_size > config.vocab_size:
            raise ModelError(
                f"has ids up to {self.vocab_size - 1}, but model.vocab_size is {config.vocab_size}",
                where=where,
                remedy="raise vocab_size or take the tokenizer that belongs to the model",
            )
        end = self._inner.token_to_id("</s>")
        if end is not None and end != config.eos_token_id:
            raise ModelError(
                f"has </s> as id {end}, but model.eos_token_id is {config.eos_token_id}",
                where=where,
                remedy="take the tokenizer that belongs to the model",
            )


def _as_tensor(rows: Sequence[Sequence[int]], kind: str) -> Any:
    if kind not in ("np", "ms"):
        raise ModelError(f"is {kind!r}, not np or ms", where="return_tensors")
    if len({len(row) for row in rows}) > 1:
        raise ModelError("texts of different lengths are no tensor", where="tokenizer", remedy="padding=True")
    array = np.array(rows, np.int32)
    if kind == "np":
        return array
    import mindspore  # late: it takes seconds, and nothing else here needs it

    return mindspore.Tensor(array)


def load_tokenizer(path: Path, config: NetworkConfig) -> Tokenizer:
    """Read a `tokenizer.json`; ModelError where it is missing, damaged or larger than the embedding."""
    tokenizer = read_tokenizer(path)
    tokenizer.check(config, str(path))
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`; ModelError where it is missing or damaged."""
    try:
        with open_regular(path) as file:
            raw = file.read()
        if words := lfs_pointer(raw):
            raise ModelError(words[0], where=str(path), remedy=words[1])
        content = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the tokenizer cannot be read: {error}", where=str(path)) from error
    try:
        return Tokenizer.from_json(content)
    except BaseException as error:
        # The library raises the bare class; a fault of its Rust is a PanicException, which is none of them.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"is no tokenizer.json: {error}", where=str(path)) from error


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def train_tokenizer(texts: Iterable[str], config: NetworkConfig) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` ids, the same for the same texts; any text can be encoded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(SPECIAL_TOKENS) + len(alphabet)
    if config.vocab_size < least:
        raise ModelError(
            f"vocab_size {config.vocab_size} has no room for all bytes",
            where="model",
            remedy=f"use {least} or more",
        )
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner)
