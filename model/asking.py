"""The sections of worker.yaml for jobs that answer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Chat", "Predict"]


@dataclass(frozen=True, slots=True)
class Chat:
    """How answers are decoded; temperature 0 takes the likeliest token."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 42


@dataclass(frozen=True, slots=True)
class Predict(Chat):
    """The same for a list of questions, answered `batch_size` at a time."""

    prompts: tuple[str, ...] | None = None
    prompts_file: str | None = None
    batch_size: int = 8
