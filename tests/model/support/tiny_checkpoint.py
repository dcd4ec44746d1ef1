"""A whole checkpoint of random weights with what belongs beside it, small enough to be made in a test."""

from __future__ import annotations

from pathlib import Path

from model.config.load_config import config_text, load_config
from model.data.tokenizer import train_tokenizer
from model.network.build import build, initialise
from model.parallel.mesh import Place, Strategy
from orchestrator.checkpoint.files.tensor_files import write_ckpt
from orchestrator.families.bloom import BloomConfig

__all__ = ["TEXTS", "write_tiny_checkpoint"]

TEXTS = ["What is the capital of France?", "The capital of France is Paris.", "Why is the sky blue?"]


def write_tiny_checkpoint(folder: Path) -> BloomConfig:
    """`tiny.ckpt`, `config.yaml` and `tokenizer.json` in `folder`."""
    config = load_config("tiny", {"seq_length": 48, "initializer_range": 0.3, "prompt_template": "none"})
    network = build(config)
    initialise(network, config, 7, Strategy(), Place(0, 0, 0, 0))
    folder.mkdir(parents=True, exist_ok=True)
    # Strong blocks: else a tied head likes best the token that it has just read.
    scaled = (
        (item.name, item.asnumpy() * (8 if item.name.endswith("projection.weight") else 1))
        for item in network.get_parameters()
    )
    write_ckpt(folder / "tiny.ckpt", scaled)
    (folder / "config.yaml").write_text(config_text(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text(train_tokenizer(TEXTS, config).to_json(), encoding="utf-8")
    return config
