"""The weights that a training starts with: initialised, of a checkpoint, or of another run's last step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from model.config.settings import Settings
from model.errors import ModelError
from model.network.build import initialise
from model.parallel.distributed import Session
from model.weights.checkpoint import (
    Progress,
    load_rank,
    load_rank_weights,
    load_whole,
    shard_of_step,
    steps_of,
)
from model.weights.hub import weights_at
from orchestrator.families.network_config import NetworkConfig

__all__ = ["common_step", "start_weights"]

# Of each rank, so many of its newest steps.
STEPS_COMPARED = 16


def start_weights(
    network: nn.Cell,
    weights: Sequence[ms.Parameter],
    moments: Sequence[ms.Parameter],
    settings: Settings,
    config: NetworkConfig,
    session: Session,
) -> Progress | None:
    """Fill the weights; with checkpoint.resume also the moments, and how far that training was comes back."""
    strategy, place, options = session.strategy, session.place, settings.checkpoint
    if options.load is None:
        initialise(network, config, settings.train.seed, strategy, place)
        return None
    load = weights_at(options.load)
    if not load.is_dir():
        if options.resume:
            raise ModelError(
                "is one whole file, which holds no rank's optimizer",
                where=str(load),
                remedy="name the folder with the shards of the run, or set checkpoint.distribute to true",
            )
        load_whole(load, weights, strategy, place, config.num_layers)
        return None
    path = shard_of_step(load, place.rank, common_step(load, session))
    if options.resume is False:
        load_rank_weights(path, weights, strategy, place)
        return None
    return load_rank(path, weights, moments, strategy, place)


def common_step(folder: Path, session: Session) -> int:
    """The newest step of which every rank holds a shard; ModelError on all ranks where there is none.

    A run that was killed while it saved leaves ranks with different newest steps.
    """
    mine = steps_of(folder, session.place.rank)[-STEPS_COMPARED:]
    # Step 0 is one: what distribute-ckpt has cut for the ranks.
    newest_steps = np.full(STEPS_COMPARED, -1, np.float32)
    newest_steps[: len(mine)] = mine
    table = session.gather(newest_steps)
    held = [{int(step) for step in row if step >= 0} for row in table]
    without = [str(rank) for rank, steps in enumerate(held) if not steps]
    if without:
        raise ModelError(f"holds no shard of rank {', '.join(without)}", where=str(folder))
    common = set.intersection(*held)
    if not common:
        newest = ", ".join(str(max(steps)) for steps in held)
        raise ModelError(f"holds no step that all ranks have; the newest are {newest}", where=str(folder))
    return max(common)
