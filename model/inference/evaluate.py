"""Evaluation of a checkpoint on a data set: loss and perplexity, on one device of this machine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import nn

from model.config.settings import Settings
from model.data.dataset import Dataset, load_data
from model.data.tokenizer_choice import check_weights_tokenizer, tokenizer_beside
from model.devices.device_name import DeviceName
from model.errors import ModelError
from model.inference.load_model import config_of
from model.network.build import build
from model.network.loss import LossCell
from model.parallel.distributed import open_alone
from model.weights.checkpoint import load_whole
from orchestrator.config.worker_config import Data, Train
from orchestrator.families.network_config import NetworkConfig

__all__ = ["Evaluation", "evaluate", "mean_loss"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The mean negative log likelihood of the scored tokens, and how many of them there were."""

    loss: float
    tokens: int
    records: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))  # beyond, a float is infinite


def evaluate(
    checkpoint: Path,
    data: Data,
    *,
    config_file: Path | None = None,
    batch_size: int = 8,
    loss_mask: Literal["label", "input"] = "label",
    whole: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
    device: DeviceName | None = None,
) -> Evaluation:
    """Load a whole checkpoint and go once through the records of `data`; config.yaml and tokenizer.json
    are those beside the checkpoint unless given. `report` gets how many records are done. On `device`, or
    the one that MindSpore is set to. Raises ModelError."""
    if batch_size < 1:
        raise ModelError(f"must be at least 1, not {batch_size}", where="--batch-size")
    if data.tokenizer is not None:
        check_weights_tokenizer(Path(data.tokenizer), checkpoint)
    tokenizer = data.tokenizer or str(tokenizer_beside(checkpoint, "name it with --tokenizer"))
    overrides = {"seq_length": data.seq_length} if data.seq_length else None
    config = config_of(checkpoint, config_file, overrides)
    settings = Settings(
        task="pretrain" if whole else "finetune",
        data=replace(data, tokenizer=tokenizer),
        train=Train(loss_mask=loss_mask),
    )
    dataset, _ = load_data(settings, config)
    session = open_alone(device)
    network = build(config, session.strategy, session.place, session.groups)
    load_whole(checkpoint, list(network.get_parameters()), session.strategy, session.place)
    return mean_loss(network, config, dataset, batch_size, report)


def mean_loss(
    network: nn.Cell,
    config: NetworkConfig,
    dataset: Dataset,
    batch_size: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Every record once, in order; the last batch is filled up with records that weigh nothing."""
    loss = LossCell(network).set_train(False)
    total, count = 0.0, len(dataset)
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size)
        batch = dataset.take(np.minimum(rows, count - 1), 1)
        weights = np.where((rows < count)[:, None], batch.weights, np.float32(0))
        value = loss(*(ms.Tensor(array) for array in (batch.tokens, batch.labels, weights)))
        total += float(value.asnumpy())
        report(min(count, start + batch_size), count)
    tokens = int(dataset.counts.sum())
    if not tokens:
        raise ModelError("holds no token that is scored", where="data.path")
    return Evaluation(total / tokens, tokens, count)
