"""How fast records become MindRecord: against the way of MindFormers' page, and with one core and with two.

    python bench/prepare_data.py [--records 12000] [--runs 3] [--input FILE] [--tokenizer FILE] [--json]

The page's way is a loop in one process: encode a record, fill it up to 2,049 ids, write it. Both use the same
tokenizer and give the same rows, which is checked. Whole processes are timed, imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("GLOG_v", "3")

from bench.report import Goal, Series, Table, measure, print_json  # noqa: E402

LENGTH = 2049

_PAGE = """
import json, sys
import numpy as np
import tokenizers
from mindspore.mindrecord import FileWriter
from model.config.prompt_templates import wrap

records, tokenizer, output, length = *sys.argv[1:4], int(sys.argv[4])
tokenizer = tokenizers.Tokenizer.from_file(tokenizer)
writer = FileWriter(output, 1)
writer.add_schema({"input_ids": {"type": "int64", "shape": [-1]}}, "lm-schema")
with open(records) as file:
    records = json.load(file)
for record in records:
    prompt = tokenizer.encode(wrap(record["instruction"], record["input"])).ids
    answer = tokenizer.encode(record["output"]).ids
    ids = [-item for item in prompt] + answer
    ids = ids[:length]
    ids += [2] * (length - len(ids))
    writer.write_raw_data([{"input_ids": np.asarray(ids)}])
writer.commit()
"""

_SAME = """
import sys
import numpy as np
from pathlib import Path
from model.config.load_config import load_config
from model.data.mindrecord import read_rows

config = load_config("tiny", {"vocab_size": 250880, "seq_length": int(sys.argv[3]) - 1})
first, second = (read_rows(Path(path), config) for path in sys.argv[1:3])
sys.exit(not np.array_equal(first, second))
"""

_TRAIN_TOKENIZER = """
import sys
from pathlib import Path
from model.config.load_config import load_config
from model.data.encode_records import texts_of
from model.data.records import load_records
from model.data.tokenizer import train_tokenizer

texts = texts_of(load_records(Path(sys.argv[1]), 5000), "alpaca")
tokenizer = train_tokenizer(texts, load_config("tiny", {"vocab_size": 16000}))
Path(sys.argv[2]).write_text(tokenizer.to_json())
"""


def make_records(path: Path, count: int, source: Path | None) -> None:
    """So many Alpaca records: of a file, again and again, or of random words with Alpaca's lengths."""
    if source:
        given = json.loads(source.read_text(encoding="utf-8"))
        records = [given[index % len(given)] for index in range(count)]
    else:
        rng = random.Random(7)
        letters = "etaoinshrdlcumwfgypbvk"
        words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(8000)]

        def text(least: int, most: int) -> str:
            return " ".join(rng.choices(words, k=rng.randint(least, most)))

        records = [
            {
                "instruction": text(5, 20),
                "input": text(3, 20) if rng.random() < 0.4 else "",
                "output": text(5, 90),
            }
            for _ in range(count)
        ]
    path.write_text(json.dumps(records), encoding="utf-8")


class Bench:
    """The processes that are measured, in one folder; `cores` are all that a process may run on."""

    def __init__(self, folder: Path, records: Path, tokenizer: Path) -> None:
        self.folder, self.records, self.tokenizer = folder, records, tokenizer
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}

    def page(self, series: Series, cores: set[int]) -> None:
        output = self.folder / "page" / "dataset.mindrecord"
        output.parent.mkdir(exist_ok=True)
        for path in output.parent.iterdir():
            path.unlink()
        words = [self.records, self.tokenizer, output, LENGTH]
        self._run(series, cores, [sys.executable, "-c", _PAGE, *words])

    def ours(self, series: Series, cores: set[int], *words: str) -> None:
        paths = ["--input", self.records, "--tokenizer", self.tokenizer, "--output", self.folder / "ours"]
        argv = [sys.executable, "-m", "model", "prepare-data", "--overwrite", "--workers", len(cores)]
        self._run(series, cores, [*argv, *paths, *words])

    def check(self) -> None:
        """RuntimeError unless both wrote the same rows."""
        files = [self.folder / name / "dataset.mindrecord" for name in ("page", "ours")]
        measure([sys.executable, "-c", _SAME, *map(str, files), str(LENGTH)], env=self.env)

    def _run(self, series: Series, cores: set[int], argv: Sequence[object]) -> None:
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            series.samples.append(measure([str(word) for word in argv], env=self.env))
        finally:
            os.sched_setaffinity(0, allowed)


def run(bench: Bench, runs: int) -> dict[str, Series]:
    cores = sorted(os.sched_getaffinity(0))
    one, two = set(cores[:1]), set(cores[:2])
    names = ("page's way, 2 cores", "ours, 1 core", "ours, 2 cores", "ours, 2 cores, packed")
    series = {name: Series(name) for name in names}
    for _ in range(runs):
        bench.page(series[names[0]], two)
        bench.ours(series[names[1]], one)
        bench.ours(series[names[3]], two, "--pack")
        bench.ours(series[names[2]], two)
    bench.check()
    return series


def main() -> None:
    parser = argparse.ArgumentParser(description="bench of prepare-data")
    parser.add_argument("--records", type=int, default=12_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--input", type=Path, help="Alpaca JSON to repeat (default: random words)")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json (default: trained on the records)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records, tokenizer = folder / "records.json", args.tokenizer or folder / "tokenizer.json"
        make_records(records, args.records, args.input)
        bench = Bench(folder, records, tokenizer)
        if not args.tokenizer:
            measure([sys.executable, "-c", _TRAIN_TOKENIZER, str(records), str(tokenizer)], env=bench.env)
        report(run(bench, args.runs), args.records, args.json)


def report(series: dict[str, Series], records: int, as_json: bool) -> None:
    page, one, two, _ = (records / item.wall for item in series.values())
    goals = [
        Goal("ours against the page's way, 2 cores", two / page, 2.0, at_least=True, unit="times"),
        Goal("2 cores against 1", two / one, 1.3, at_least=True, unit="times"),
    ]
    if as_json:
        data = {name: item.to_json() | {"records": records} for name, item in series.items()}
        print_json({"series": data, "goals": {goal.name: goal.to_json() for goal in goals}})
        return
    table = Table("way", "records/s", "seconds", "CPU s")
    for name, item in series.items():
        table.add(name, f"{records / item.wall:.0f}", f"{item.wall:.1f}", f"{item.cpu:.1f}")
    table.print()
    print()
    for goal in goals:
        print(goal.line())


if __name__ == "__main__":
    main()
