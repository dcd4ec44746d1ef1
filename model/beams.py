"""Beam search over one prompt: the rows of a reader's batch are the beams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from model.sampling import penalised

__all__ = ["Beams"]


@dataclass(slots=True)
class Beams:
    """The likeliest continuations so far. A finished one is judged by its log chance per new token.

    `texts` (prompt and answer) and `scores` are those of the beams that go on, best first.
    """

    prompt: Sequence[int]
    width: int
    eos: int
    penalty: float = 1.0
    texts: list[list[int]] = field(init=False)
    scores: np.ndarray = field(init=False)
    finished: list[tuple[float, list[int]]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.texts = [list(self.prompt) for _ in range(self.width)]
        # All beams start alike, so all but the first are kept out of the first choice.
        self.scores = np.array([0.0] + [-np.inf] * (self.width - 1))

    def advance(self, logits: np.ndarray) -> list[int]:
        """Take the (width, V) logits of the next token; gives the beam that each new beam continues."""
        totals = self.scores[:, None] + np.stack(
            [
                penalised(_log_chances(row), text, self.penalty)
                for row, text in zip(logits, self.texts, strict=True)
            ]
        )
        count = min(2 * self.width, totals.size)
        best = np.argpartition(-totals, count - 1, axis=None)[:count]
        best = best[np.argsort(-totals.ravel()[best], kind="stable")]
        parents, texts, scores = [], [], []
        for rank, flat in enumerate(best):
            parent, token = divmod(int(flat), totals.shape[1])
            text, score = [*self.texts[parent], token], float(totals.ravel()[flat])
            if token == self.eos:
                if rank < self.width:
                    self._finish(text, score)
            elif len(texts) < self.width:
                parents.append(parent)
                texts.append(text)
                scores.append(score)
        self.texts, self.scores = texts, np.array(scores)
        return parents

    def done(self) -> bool:
        """Whether no beam that goes on can still beat the finished ones."""
        if len(self.finished) < self.width:
            return False
        return self.finished[-1][0] >= self.scores[0] / (len(self.texts[0]) - len(self.prompt))

    def best(self) -> list[int]:
        """The new tokens of the best text, without eos."""
        for text, score in zip(self.texts, self.scores, strict=True):
            self._finish(text, float(score))
        new = self.finished[0][1][len(self.prompt) :]
        return new[:-1] if new and new[-1] == self.eos else new

    def run(
        self, logits: np.ndarray, read: Callable[[list[int], list[int]], np.ndarray], limit: int
    ) -> list[int]:
        """Search until done or until the texts have `limit` tokens; `read(parents, tokens)` gives logits."""
        while True:
            parents = self.advance(logits)
            if self.done() or len(self.texts[0]) >= limit:
                return self.best()
            logits = read(parents, [text[-1] for text in self.texts])

    def _finish(self, text: list[int], score: float) -> None:
        self.finished.append((score / (len(text) - len(self.prompt)), text))
        self.finished.sort(key=lambda item: -item[0])
        del self.finished[self.width :]


def _log_chances(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
