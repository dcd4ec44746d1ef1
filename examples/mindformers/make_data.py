"""Makes data to try MindFormers with: records of token ids by chance, as MindRecord."""

import sys

import numpy as np
from mindspore.mindrecord import FileWriter

# As in llama_tiny.yaml: one token more than its seq_length, the first three of its vocabulary being special.
LENGTH, VOCABULARY, RECORDS = 32 + 1, 1000, 160


def main():
    chance = np.random.default_rng(0)
    writer = FileWriter(sys.argv[1] if len(sys.argv) > 1 else "tiny.mindrecord", 1)
    writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]}}, "")
    records = (chance.integers(3, VOCABULARY, LENGTH, np.int32) for _ in range(RECORDS))
    writer.write_raw_data([{"input_ids": ids} for ids in records])
    writer.commit()


if __name__ == "__main__":
    main()
