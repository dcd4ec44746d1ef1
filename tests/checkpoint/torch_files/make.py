"""Makes the frozen files beside it; needs PyTorch (2.13.0 was used), which the tests do not.

python tests/checkpoint/torch_files/make.py
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent


def main() -> None:
    values = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    shared = torch.arange(6, dtype=torch.float16)
    table = OrderedDict(
        float32=values,
        view=values[1:],  # of the same storage, from its second row on
        float16=shared,
        tied=shared,
        bfloat16=torch.tensor([1.0, -2.5, 3.140625], dtype=torch.bfloat16),
        int64=torch.tensor([[1], [-2]]),
        scalar=torch.tensor(7.0),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.ones(2)),
    )
    table._metadata = OrderedDict({"": {"version": 1}})
    torch.save(table, HERE / "state.bin")
    torch.save(table, HERE / "protocol4.bin", pickle_protocol=4)
    torch.save({"w": torch.ones(2)}, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"w": values.t()}, HERE / "strided.bin")
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, HERE / "nested.bin")
    torch.save(torch.nn.Linear(2, 2), HERE / "module.bin")


if __name__ == "__main__":
    main()
