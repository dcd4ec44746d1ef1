"""`python -m model convert` of a sharded Hugging Face checkpoint, against copying its files.

    python bench/convert.py [--gigabytes 2] [--repeat 5] [--folder DIR] [--json]

Both are measured twice: to the disk (copy and flush; convert as it is), and to the page cache (bare copy;
convert without its flush). The sources are in the page cache throughout.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.report import Goal, Series, Table, measure, print_json
from model.config.load_config import load_config
from orchestrator.checkpoint.files.tensor_files import write_safetensors
from orchestrator.families.family import hf_shape

SHARDS = 4
WITHOUT_FLUSH = (
    "import sys; from pathlib import Path; from model.weights.convert import convert; "
    "convert(Path(sys.argv[1]), Path(sys.argv[2]), flush=False)"
)
COPY = "import shutil, sys; [shutil.copy(path, sys.argv[-1]) for path in sys.argv[1:-1]]"
FLUSHED = "sync -d"


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="bench-convert-") as name:
        home = Path(name)
        # In a process of its own: a child's peak counts the memory of whom it was forked from.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            largest = pool.submit(_write_model, home / "model", args.gigabytes).result()
        series, peak = _run(home, args.repeat)
    _report(series, peak, largest, args.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How long convert takes, measured in copies of the files.")
    parser.add_argument("--gigabytes", type=float, default=2.0, metavar="N", help="size of the checkpoint")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds; medians are told")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where to work; default: the temporary folder"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _write_model(folder: Path, gigabytes: float) -> int:
    """A checkpoint of Bloom 7.1b's widths with as many layers as fit; the bytes of its largest tensor."""
    folder.mkdir()
    layer = 12 * 4096**2 * 2
    config = load_config(
        "7.1b", {"vocab_size": 32000, "num_layers": max(1, round((gigabytes * 1e9 - 2.6e8) / layer))}
    )
    random = np.random.default_rng(1)
    tensors = dict(_tensors(config, random))
    names = list(tensors)
    per_shard = math.ceil(len(names) / SHARDS)
    weight_map = {}
    for number in range(SHARDS):
        name = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        part = names[number * per_shard : (number + 1) * per_shard]
        write_safetensors(folder / name, [(key, tensors[key]) for key in part], metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "bloom",
                "torch_dtype": "float16",
                "hidden_size": config.hidden_size,
                "n_layer": config.num_layers,
                "n_head": config.num_heads,
                "vocab_size": config.vocab_size,
            }
        )
    )
    return max(tensor.nbytes for tensor in tensors.values())


def _tensors(config: object, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    done = set()
    for name, dims in config.shapes().items():
        part = config.family.hf_part(name)
        if part.hf not in done:
            done.add(part.hf)
            shape = hf_shape(part, dims)
            yield part.hf, random.integers(0, 1 << 14, shape, np.uint16).view(np.float16)


def _run(home: Path, repeat: int) -> tuple[dict[str, Series], int]:
    model, out = home / "model", home / "out"
    files = [str(path) for path in sorted(model.iterdir())]
    convert = [sys.executable, "-m", "model", "convert", str(model), str(out / "model.ckpt")]
    bare = [sys.executable, "-c", WITHOUT_FLUSH, str(model), str(out / "model.ckpt")]
    commands = {
        "cp": ["cp", *files, str(out)],
        "convert, not flushed": bare,
        "cp, then sync of the files": [
            "sh",
            "-c",
            'cp "$@" && for last; do :; done && sync "$last"/*',
            "cp",
            *files,
            str(out),
        ],
        "python -m model convert": convert,
    }
    series = {name: Series(name) for name in commands}
    peak = 0
    root = str(Path(__file__).resolve().parents[1])
    for _ in range(repeat):
        for name, argv in commands.items():
            out.mkdir()
            os.sync()  # what went before is no part of it
            sample = measure(argv, cwd=Path(root))
            series[name].samples.append(sample)
            if name == "python -m model convert":
                peak = max(peak, sample.peak)
            shutil.rmtree(out)
    return series, peak


def _report(series: dict[str, Series], peak: int, largest: int, as_json: bool) -> None:
    cp, bare, flushed, convert = series.values()
    bound = 2 * largest + 300e6
    goals = [
        Goal("convert / copy, both to the disk", convert.wall / flushed.wall, 1.5),
        Goal("convert / copy, both to the page cache", bare.wall / cp.wall, 1.5),
        Goal("peak memory, MB", peak / 1e6, bound / 1e6),
    ]
    if as_json:
        print_json(
            {
                "series": {name: item.to_json() for name, item in series.items()},
                "largest_tensor_bytes": largest,
                "goals": {goal.name: goal.to_json() for goal in goals},
            }
        )
        return
    table = Table("", "median s", "least", "most", "CPU s")
    for item in series.values():
        low, high = item.spread
        table.add(item.name, f"{item.wall:.2f}", f"{low:.2f}", f"{high:.2f}", f"{item.cpu:.2f}")
    table.print()
    print(f"\nlargest tensor: {largest / 1e6:.0f} MB")
    for goal in goals:
        print(goal.line())


if __name__ == "__main__":
    main()
