"""A chat with a model: the questions and answers so far stand before the next question."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from model.config.prompt_templates import conversation
from model.errors import ModelError
from model.inference.sampling import Sampling

__all__ = ["Chat"]


class Chat:
    """The turns of one conversation, wrapped in the template that the model was trained with.

    `pieces(prompt, sampling)` gives the text of an answer as it comes; `count(text)` gives tokens.
    The oldest turns are dropped where all of them and an answer exceed `room` tokens.
    """

    def __init__(
        self,
        pieces: Callable[[str, Sampling], Iterator[str]],
        count: Callable[[str], int],
        *,
        sampling: Sampling,
        template: str,
        room: int,
    ) -> None:
        self._pieces, self._count = pieces, count
        self.sampling, self.template, self.room = sampling, template, room
        self.turns: list[tuple[str, str]] = []

    def ask(self, question: str) -> Generator[str, None, None]:
        """The answer as it comes. What has come is remembered, also if it was stopped halfway."""
        prompt = self._prompt(question)
        answer = ""
        try:
            for text in self._pieces(prompt, self.sampling):
                answer += text
                yield text
        finally:
            if answer:
                self.turns.append((question, answer))

    def clear(self) -> None:
        """Forget the conversation."""
        self.turns.clear()

    def _prompt(self, question: str) -> str:
        if not question.strip():
            raise ModelError("is empty", where="prompt", remedy="ask something")
        kept = list(self.turns)
        while True:
            prompt = conversation(kept, question, template=self.template)
            # At least a token of room; without old turns to leave out, the generator says what is too long.
            wanted = min(self.sampling.max_new_tokens or 1, self.room // 4)
            if not kept or self._count(prompt) + wanted <= self.room:
                return prompt
            kept.pop(0)
