"""Answer one question with the Auto classes.

    python examples/generate.py [MODEL] [--question TEXT] [--max-length N]

MODEL is a folder, a name of MindFormers' (bloom_560m, bloom_7.1b) or of the hub (bigscience/bloom-560m).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from model import AutoModel, AutoTokenizer


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Answer one question with the Auto classes.")
    parser.add_argument("model", nargs="?", default="bloom_560m")
    parser.add_argument("--question", default="what color is the sky?")
    parser.add_argument("--max-length", type=int, default=100, help="of question and answer, in tokens")
    args = parser.parse_args(argv)

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model)

    inputs = tokenizer(args.question)
    outputs = model.generate(inputs["input_ids"], max_length=args.max_length)
    response = tokenizer.decode(outputs, skip_special_tokens=True)[0]
    print(response)


if __name__ == "__main__":
    main()
