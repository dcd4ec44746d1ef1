"""Talk to a model that was fine-tuned on Alpaca's template, for example one that collect-ckpt brought home.

    python examples/chat.py MODEL [--checkpoint FILE] [--max-new-tokens N]

Three questions are asked first; then it is your turn, until an empty line or the end of the input.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from model import AutoConfig, AutoModel, AutoTokenizer

ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
QUESTIONS = [
    "why the earth is unique?",
    "why the sky is blue?",
    "write a job application for a data scientist and explain your related work experience.",
]


def questions() -> Iterator[str]:
    yield from QUESTIONS
    while True:
        try:
            question = input("please input your question: ").strip()
        except EOFError:
            return
        if not question:
            return
        yield question


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Talk to a model that was fine-tuned on Alpaca's template.")
    parser.add_argument("model", help="a folder, or a name: of it come config and tokenizer")
    parser.add_argument("--checkpoint", metavar="FILE", help="other weights for it: a .ckpt or .safetensors")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of an answer")
    args = parser.parse_args(argv)

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    if args.checkpoint:
        model = AutoModel.from_config(AutoConfig.from_pretrained(args.model), args.checkpoint)
    else:
        model = AutoModel.from_pretrained(args.model)

    for question in questions():
        ids = tokenizer.encode(ALPACA.format(instruction=question))
        answer = model.generate([ids], max_new_tokens=args.max_new_tokens, do_sample=False)[0]
        print(f"{question}\n{tokenizer.decode(answer[len(ids) :])}\n")


if __name__ == "__main__":
    main()
