"""The network of a configuration: built by its family, filled from a seed.

The network of a family, a Cell made from (config, strategy, place, groups), has

- `transformer`, with `blocks` (this stage's), `first_block` (the number of the first of them), `embedding`
  on the first stage, `ln_f` on the last, `run_blocks(x)`, and `transformer(ids)` for all of it, which is
  (B, S) -> (B, S, h);
- `head(x)`, (…, h) -> (n, V) float32 logits, `own_head(x)`, those of this rank's rows of the `vocabulary`,
  and `head_operands(x)`, what the loss multiplies to get them;
- blocks with `attention` and `output`, each with the `copy` that lets its input in and the `reduce` of its
  `projection`, which sequence parallelism replaces.

Its parameters get the names of the family's table: `transformer.` and `blocks` stand for what it has there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import nn

from model.errors import ModelError
from model.network.bloom import BloomLMHeadModel
from model.parallel.mesh import Groups, Place, Strategy, cut, full_shape
from orchestrator.families.network_config import NetworkConfig

__all__ = ["NETWORKS", "build", "initialise", "recompute_blocks"]

# The network of each family, by the name of its table.
NETWORKS: dict[str, Callable[..., nn.Cell]] = {"bloom": BloomLMHeadModel}


def build(
    config: NetworkConfig,
    strategy: Strategy | None = None,
    place: Place | None = None,
    groups: Groups | None = None,
) -> nn.Cell:
    """This rank's part of the network, weights not yet set; without arguments, the whole of it."""
    strategy, place = strategy or Strategy(), place or Place(0, 0, 0, 0)
    family = config.family
    if family.name not in NETWORKS:
        raise ModelError(f"there is no network of family {family.name}", where="model.preset")
    strategy.check_network(config)
    strategy.check_vocabulary(config.vocab_size)
    network = NETWORKS[family.name](config, strategy, place, groups or Groups())
    for path, item in network.parameters_and_names():
        item.name = family.name_of_cell(path, network.transformer.first_block)
    return network


def initialise(network: nn.Cell, config: NetworkConfig, seed: int, strategy: Strategy, place: Place) -> None:
    """Fill the weights from the seed: matrices normal(0, initializer_range), biases 0, norms 1 and 0.

    Each tensor is drawn whole from a stream of its own name and then cut, so every strategy starts
    from the same weights.
    """
    for item in network.get_parameters():
        name = item.name
        if item.ndim < 2:
            continue
        stream = np.random.default_rng([seed, zlib.crc32(_drawn_by(name, config).encode())])
        shape = full_shape(name, item.shape, strategy)
        full = stream.standard_normal(shape, dtype=np.float32) * config.initializer_range
        part = np.ascontiguousarray(cut(name, full, strategy, place))
        item.set_data(ms.Tensor(part, item.dtype))


def _drawn_by(name: str, config: NetworkConfig) -> str:
    """The name that the stream is of: the one with a prefix, where parameters had it once.

    So a seed gives the weights that it has always given.
    """
    return next(iter(config.family.other_prefixes), "") + name


def recompute_blocks(network: nn.Cell) -> None:
    """Keep only the blocks' inputs for the backward pass, which computes each block once more."""
    for block in network.transformer.blocks:
        block.recompute()
