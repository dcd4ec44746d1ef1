"""Answer several questions at once with a pipeline.

python examples/text_pipeline.py [MODEL] [--max-length N]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from model import AutoModel, AutoTokenizer, TextGenerationPipeline

QUESTIONS = ["what color is the sky?", "Translate to English: Je t’aime."]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Answer several questions at once with a pipeline.")
    parser.add_argument("model", nargs="?", default="bloom_560m")
    parser.add_argument("--max-length", type=int, default=256, help="of question and answer, in tokens")
    args = parser.parse_args(argv)

    model = AutoModel.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    ask = TextGenerationPipeline(model, tokenizer, max_length=args.max_length)

    for result in ask(QUESTIONS):
        print(result)


if __name__ == "__main__":
    main()
