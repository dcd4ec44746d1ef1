"""What the workers of a job can be there for."""

from __future__ import annotations

from typing import Literal

__all__ = ["MINDFORMERS", "TRAINING", "Task"]

Task = Literal["pretrain", "finetune", "predict", "chat", "command", "mindformers"]

# The tasks that train; the others answer, or are none of the bundled model's.
TRAINING = ("pretrain", "finetune")
# The task whose workers are MindFormers' trainer.
MINDFORMERS = "mindformers"
