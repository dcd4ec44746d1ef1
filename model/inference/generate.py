"""Generation: answers token by token, for several prompts at once, as a stream, or by beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mindspore import nn
from numpy.typing import NDArray

from model.data.tokenizer import Tokenizer
from model.errors import ModelError
from model.inference.cached_attention import CachedReader, PlainReader, bucket, has_cache
from model.inference.sampling import Sampling, choose, penalised
from orchestrator.families.network_config import NetworkConfig

__all__ = [
    "Beams",
    "Generator",
    "Sampling",
    "choose",
    "text_pieces",
]


@dataclass(slots=True)
class Beams:
    """The likeliest continuations so far. A finished one is judged by its log chance per new token.

    `sequences` (prompt and answer) and `scores` are those of the beams that go on, best first.
    """

    prompt: Sequence[int]
    width: int
    eos: int
    penalty: float = 1.0
    sequences: list[list[int]] = field(init=False)
    scores: NDArray[Any] = field(init=False)
    finished: list[tuple[float, list[int]]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.sequences = [list(self.prompt) for _ in range(self.width)]
        # All beams start alike, so all but the first are kept out of the first choice.
        self.scores = np.array([0.0] + [-np.inf] * (self.width - 1))

    def advance(self, logits: NDArray[Any]) -> list[int]:
        """Take the (width, V) logits of the next token; gives the beam that each new beam continues."""
        totals = self.scores[:, None] + np.stack(
            [
                penalised(_log_chances(row), sequence, self.penalty)
                for row, sequence in zip(logits, self.sequences, strict=True)
            ]
        )
        count = min(2 * self.width, totals.size)
        best = np.argpartition(-totals, count - 1, axis=None)[:count]
        best = best[np.argsort(-totals.ravel()[best], kind="stable")]
        parents: list[int] = []
        sequences: list[list[int]] = []
        scores: list[float] = []
        for rank, flat in enumerate(best):
            parent, token = divmod(int(flat), totals.shape[1])
            sequence, score = [*self.sequences[parent], token], float(totals.ravel()[flat])
            if token == self.eos:
                if rank < self.width:
                    self._finish(sequence, score)
            elif len(sequences) < self.width:
                parents.append(parent)
                sequences.append(sequence)
                scores.append(score)
        self.sequences, self.scores = sequences, np.array(scores)
        return parents

    def done(self) -> bool:
        """Whether no beam that goes on can still beat the finished ones."""
        if len(self.finished) < self.width:
            return False
        return self.finished[-1][0] >= float(self.scores[0]) / (len(self.sequences[0]) - len(self.prompt))

    def best(self) -> list[int]:
        """The new tokens of the best text, without eos."""
        for sequence, score in zip(self.sequences, self.scores, strict=True):
            self._finish(sequence, float(score))
        new = self.finished[0][1][len(self.prompt) :]
        return new[:-1] if new and new[-1] == self.eos else new

    def run(
        self, logits: NDArray[Any], read: Callable[[list[int], list[int]], NDArray[Any]], limit: int
    ) -> list[int]:
        """Search until done or until sequences have `limit` tokens; `read(parents, tokens)` gives logits."""
        while True:
            parents = self.advance(logits)
            if self.done() or len(self.sequences[0]) >= limit:
                return self.best()
            logits = read(parents, [sequence[-1] for sequence in self.sequences])

    def _finish(self, sequence: list[int], score: float) -> None:
        self.finished.append((score / (len(sequence) - len(self.prompt)), sequence))
        self.finished.sort(key=lambda item: -item[0])
        del self.finished[self.width :]


def _log_chances(logits: NDArray[Any]) -> NDArray[Any]:
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


Reader = CachedReader | PlainReader


class Generator:
    """Continues prompts. Its graphs are compiled for few sizes and kept.

    `batch` is the number of prompts that are read at once, those given where it is None; fewer are padded.
    The weights must not change any more: on a CPU it answers with copies of them.
    """

    def __init__(self, network: nn.Cell, config: NetworkConfig, batch: int | None = None) -> None:
        self.network, self.config = network, config
        self.batch = batch or config.batch_size
        self._reader: Reader | None = None

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[list[int]]:
        """The new tokens of at most `batch` prompts, up to and without eos.

        A prompt ends when the sequence is full. The draws depend on seed and prompt, not on its neighbours.
        """
        limits = self._limits(prompts, sampling)
        if sampling.num_beams > 1:
            pairs = zip(prompts, limits, strict=True)
            return [self._beam_search(list(prompt), limit, sampling) for prompt, limit in pairs]
        new: list[list[int]] = [[] for _ in prompts]
        for row, token in self._tokens([list(prompt) for prompt in prompts], limits, sampling):
            new[row].append(token)
        return new

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """The new tokens of one prompt as they come; what is wrong with the request is raised at once."""
        limits = self._limits([prompt], sampling)
        if sampling.num_beams > 1:
            raise ModelError(
                "a beam search knows its answer only at the end",
                where="num_beams",
                remedy="set it to 1 to stream",
            )
        return (token for _, token in self._tokens([list(prompt)], limits, sampling))

    def _limits(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[int]:
        """How long each sequence becomes at most; ModelError for what cannot be answered."""
        sampling.check()
        if self.batch is not None and len(prompts) > self.batch:
            raise ModelError(
                f"{len(prompts)} prompts at once are more than batch {self.batch}", where="prompt"
            )
        for prompt in prompts:
            self._check_prompt(prompt)
        limits = [sampling.limit(len(prompt), self.config.seq_length) for prompt in prompts]
        for prompt, limit in zip(prompts, limits, strict=True):
            if len(prompt) >= limit:
                raise ModelError(
                    f"a prompt of {len(prompt)} tokens leaves no room in max_length {limit}",
                    where="prompt",
                    remedy="raise max_length or give max_new_tokens",
                )
        return limits

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        room, vocabulary = self.config.seq_length, self.config.vocab_size
        if not len(prompt):
            raise ModelError("is empty", where="prompt", remedy="give at least one token")
        if len(prompt) >= room:
            raise ModelError(
                f"a prompt of {len(prompt)} tokens leaves no room in seq_length {room}",
                where="prompt",
                remedy="shorten it or raise seq_length",
            )
        strange = sorted({int(token) for token in prompt if not 0 <= token < vocabulary})
        if strange:
            raise ModelError(
                f"ids {', '.join(map(str, strange[:5]))} are outside a vocabulary of {vocabulary}",
                where="prompt",
                remedy="take the tokenizer that belongs to the model",
            )

    def _tokens(
        self, sequences: list[list[int]], limits: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, int]]:
        """(row, token) as they come; `sequences` grow by what was chosen."""
        streams = [np.random.default_rng([sampling.seed, *sequence]) for sequence in sequences]
        alive = set(range(len(sequences)))
        rows = self.batch or len(sequences)
        spare = [[self.config.pad_token_id] for _ in range(rows - len(sequences))]
        reader = self._reader_for(rows, max(limits, default=1))
        logits = reader.start([*sequences, *spare])
        while alive:
            for row in sorted(alive):
                scores = penalised(logits[row], sequences[row], sampling.repetition_penalty)
                token = choose(scores, sampling, streams[row])
                if token == self.config.eos_token_id:
                    alive.discard(row)
                    continue
                sequences[row].append(token)
                yield row, token
                if len(sequences[row]) >= limits[row]:
                    alive.discard(row)
            if alive:
                # A row that has ended is fed its last token again, which nobody looks at.
                logits = reader.read([sequence[-1] for sequence in (*sequences, *spare)])

    def _beam_search(self, prompt: list[int], limit: int, sampling: Sampling) -> list[int]:
        beams = Beams(prompt, sampling.num_beams, self.config.eos_token_id, sampling.repetition_penalty)
        reader = self._reader_for(sampling.num_beams, limit)

        def read(parents: list[int], tokens: list[int]) -> NDArray[Any]:
            reader.reorder(parents)
            return reader.read(tokens)

        return beams.run(reader.start(beams.sequences), read, limit)

    def _reader_for(self, rows: int, length: int) -> Reader:
        """A reader with room for `length`: the last one where it fits, so that nothing is compiled twice."""
        held = self._reader
        if held is None or held.rows != rows or held.capacity < length:
            kind = CachedReader if self.config.use_past and has_cache(self.config) else PlainReader
            held = kind(self.network, self.config, rows, bucket(length, self.config.seq_length))
            self._reader = held
        return held


def text_pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens as it becomes certain: a character of several bytes comes when it is whole."""
    held: list[int] = []
    shown = ""
    for token in tokens:
        held.append(token)
        text = tokenizer.decode(held)
        if text.endswith("\ufffd"):
            continue
        if len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    rest = tokenizer.decode(held)[len(shown) :] if held else ""
    if rest:
        yield rest
