"""What each command that moves tensors writes, as SHA-256 of every file: the cases of one committed list.

Only command lines and file formats are used, so that the cases outlive any move of the code behind them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from model.__main__ import main as model
from orchestrator.cli.main import cli
from tests.fixtures.written import restore
from tests.golden.saved import CONFIG, OTHER_CUT, save_ranks, save_strategies

__all__ = ["CASES", "Case"]

WRITTEN = Path(__file__).parents[1] / "fixtures/afcecfb"
Sums = dict[str, str]


@dataclass(frozen=True)
class Case:
    """`work` runs commands in an empty folder and returns which of the files there are its outputs."""

    name: str
    work: Callable[[Path], list[Path]]

    def sums(self, folder: Path) -> Sums:
        """SHA-256 of every output, and of the weights in it where it is a folder."""
        folder.mkdir(exist_ok=True)
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for output in self.work(folder)
            for path in ([output] if output.is_file() else sorted(filter(_is_weights, output.rglob("*"))))
        }


def _is_weights(path: Path) -> bool:
    """Files of tensors and the index of several: configurations have tests of their own."""
    return path.suffix in (".ckpt", ".safetensors", ".bin") or path.name.endswith(".index.json")


def orchestrate(*words: str | Path, env: Mapping[str, str] | None = None) -> None:
    done = CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False, env=env)
    if done.exception is not None:
        raise done.exception
    assert not done.return_value, done.output


def _combine(dtype: str) -> Callable[[Path], list[Path]]:
    def work(folder: Path) -> list[Path]:
        save_ranks(folder / "run", dtype)
        source = ("checkpoint", "combine", "--checkpoint-dir", folder / "run/checkpoint")
        for suffix in ("ckpt", "safetensors"):
            orchestrate(*source, "-o", folder / f"weights.{suffix}")
            orchestrate(*source, "-o", folder / f"all.{suffix}", "--with-optimizer")
        orchestrate(*source, "-o", folder / "parts", "--max-shard-size", "16kB")
        return sorted(folder.iterdir())  # the shards too: they are what our writer makes of the tensors

    return work


def _transform(dtype: str) -> Callable[[Path], list[Path]]:
    def work(folder: Path) -> list[Path]:
        save_ranks(folder / "run", dtype)
        save_strategies(folder / "other", OTHER_CUT)
        source = ("checkpoint", "transform", "--checkpoint-dir", folder / "run/checkpoint")
        target = ("--target-strategy", folder / "other", "-o")
        orchestrate(*source, *target, folder / "weights")
        orchestrate(*source, *target, folder / "all", "--with-optimizer")
        orchestrate(*source, *target, folder / "safetensors", "--with-optimizer", "--format", "safetensors")
        return [folder / name for name in ("weights", "all", "safetensors")]

    return work


def _split(dtype: str) -> Callable[[Path], list[Path]]:
    def work(folder: Path) -> list[Path]:
        save_ranks(folder / "run", dtype)
        save_strategies(folder / "other", OTHER_CUT)
        whole = folder / "all.safetensors"
        source = ("checkpoint", "combine", "--checkpoint-dir", folder / "run/checkpoint", "--with-optimizer")
        orchestrate(*source, "-o", whole)
        split = ("checkpoint", "split", whole, "--strategy", folder / "other", "-o")
        orchestrate(*split, folder / "weights")
        orchestrate(*split, folder / "all", "--with-optimizer")
        orchestrate(*split, folder / "safetensors", "--format", "safetensors")
        return [folder / name for name in ("weights", "all", "safetensors")]

    return work


def _convert(dtype: str) -> Callable[[Path], list[Path]]:
    """To Hugging Face's names and back, as files of both libraries and in other types."""

    def work(folder: Path) -> list[Path]:
        save_ranks(folder / "run", dtype)
        whole = folder / "source/model.ckpt"
        whole.parent.mkdir()
        (whole.parent / "config.yaml").write_text(CONFIG)
        orchestrate("checkpoint", "combine", "--checkpoint-dir", folder / "run/checkpoint", "-o", whole)
        for argv in (
            ("source/model.ckpt", "hf"),
            ("source/model.ckpt", "bin", "--format", "bin"),
            ("source/model.ckpt", "hf_float16", "--dtype", "float16"),
            ("source/model.ckpt", "bin_bfloat16", "--format", "bin", "--dtype", "bfloat16"),
            ("source/model.ckpt", "hf_float32", "--dtype", "float32"),
            ("hf", "back/model.ckpt"),
            ("hf", "back_safetensors/model.safetensors", "--dtype", "bfloat16"),
            ("bin", "back_of_bin/model.ckpt", "--dtype", "float32"),
        ):
            source, target, *options = argv
            assert model(["convert", str(folder / source), str(folder / target), *options]) == 0
        return [path for path in sorted(folder.iterdir()) if path.name not in ("run", "source")]

    return work


def _collect(folder: Path) -> list[Path]:
    """From two hosts, which are folders of this machine: the shards that MindSpore wrote in a training."""
    restore(WRITTEN, folder / "hosts")
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "hosts/state")}
    (folder / "out").mkdir()
    for name, *options in (
        ("weights.ckpt",),
        ("weights.safetensors",),
        ("brain.ckpt", "--dtype", "bfloat16"),
        ("brain.safetensors", "--dtype", "bfloat16", "--via-hosts"),
        ("all.ckpt", "--with-optimizer"),
        ("all.safetensors", "--with-optimizer", "--via-hosts"),
        ("first.ckpt", "--step", "2"),
        ("hf", "--format", "huggingface"),
        ("hf_half", "--format", "huggingface", "--dtype", "float16"),
    ):
        orchestrate("collect-ckpt", "train", "-o", folder / "out" / name, "--no-fsync", *options, env=env)
    return [folder / "out"]


def _distribute(folder: Path) -> list[Path]:
    """To two hosts, which keep what they get under its SHA-256."""
    save_ranks(folder / "run", "float32")
    whole, inventory, job = folder / "whole.safetensors", folder / "hosts.yaml", folder / "job.yaml"
    orchestrate("checkpoint", "combine", "--checkpoint-dir", folder / "run/checkpoint", "-o", whole)
    (folder / "config.yaml").write_text(CONFIG)
    inventory.write_text(
        f"transport: local\ndefaults: {{devices: 0-1, workdir: '{folder}/hosts/{{name}}'}}\n"
        "hosts: [{name: left}, {name: right}]\n"
    )
    job.write_text(
        "name: cut\ntask: predict\ndevices_per_host: 2\nparallel: {model_parallel: 2, pipeline_stage: 2}\n"
        "model: {preset: config.yaml}\npredict: {prompts: [hello]}\n"
        "checkpoint: {load: whole.safetensors, distribute: true}\n"
    )
    orchestrate("distribute-ckpt", whole, "--job", job, "-i", inventory)
    return sorted(path for path in folder.glob("hosts/*/store/**/*") if path.is_file())


CASES = [
    *(
        Case(f"{name}_{dtype}", make(dtype))
        for name, make in {
            "combine": _combine,
            "transform": _transform,
            "split": _split,
            "convert": _convert,
        }.items()
        for dtype in ("float32", "bfloat16")
    ),
    Case("collect", _collect),
    Case("distribute", _distribute),
]
