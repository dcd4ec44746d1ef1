"""Answer every line of a file, so many at a time.

    python examples/predict_batch.py MODEL --input questions.txt --output answers.jsonl [--batch-size N]

For many servers: `task: predict` in a job, see jobs/predict.yaml.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from model import pipeline


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Answer every line of a file, so many at a time.")
    parser.add_argument("model")
    parser.add_argument("--input", type=Path, required=True, help="one question a line")
    parser.add_argument("--output", type=Path, required=True, help="one JSON object a line")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=256, help="of question and answer, in tokens")
    args = parser.parse_args(argv)

    ask = pipeline("text_generation", args.model, max_length=args.max_length, batch_size=args.batch_size)
    questions = [line for line in args.input.read_text(encoding="utf-8").splitlines() if line.strip()]
    with args.output.open("w", encoding="utf-8") as file:
        for question, result in zip(questions, ask(questions), strict=True):
            row = {"question": question, "answer": result["text_generation_text"][0]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{args.output}: {len(questions)} answers")


if __name__ == "__main__":
    main()
