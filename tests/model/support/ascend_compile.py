"""Cells as an Ascend would run them, compiled on a CPU up to where kernels are chosen.

Types, shapes and attributes of every operator have been inferred by then, by MindSpore's own functions. What
an Ascend has and a CPU has not makes the choice of kernels fail, which is what these helpers expect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mindspore as ms
from mindspore import nn

__all__ = ["A2", "Primitives", "groups_of", "primitives_of", "stops_at_kernel_selection"]

from model.devices.device import Device

A2 = Device("Ascend", "ascend910b")
# There is no such kernel, none for these types, or none for sub-groups.
UNSUPPORTED = re.compile(
    r"Unsupported op \[(\w+)\] on CPU"
    r"|Select CPU operator\[(\w+)\] fail"
    r"|(\w+) only support mccl_world_group on CPU"
)
# `%3(equiv_18_CNode_135) = PrimFunc_Cast(%2, I64(43)) …`; operators of the older kind have no `PrimFunc_`.
NODE = re.compile(r"^ *%\w+\([^)]*\) = (?:PrimFunc_)?([A-Za-z_]\w*)\(", re.MULTILINE)


def stops_at_kernel_selection(cell: nn.Cell, *inputs: Any) -> set[str]:
    """The operator that the CPU has no kernel for, all of the graph being inferred; empty where it has all.

    Only the first is told by MindSpore. Any other failure, which is one of the graph, is raised.
    """
    try:
        cell.compile(*inputs)
    except (RuntimeError, TypeError) as error:
        found = UNSUPPORTED.search(str(error))
        if found is None:
            raise
        return {name for name in found.groups() if name}
    return set()


@contextmanager
def groups_of(sizes: dict[str, int]) -> Iterator[None]:
    """Collectives made within are those of groups of these sizes, this rank their first: without a network.

    MindSpore asks for both when it makes an operator, and its shape functions go by the answer.
    """
    where = "mindspore.ops.operations.comm_ops"
    with patch(f"{where}.get_group_size", sizes.__getitem__), patch(f"{where}.get_rank", lambda group: 0):
        yield


class Primitives:
    """The operators of all graphs compiled in this process, which `folder` gets the graphs' texts of.

    The process needs MS_DEV_DUMP_IR_PASSES=validate in its environment, else every pass is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: set[Path] = set()
        ms.set_context(save_graphs=1, save_graphs_path=str(folder))

    def of(self, cell: nn.Cell, *inputs: Any) -> set[str]:
        """The operators of one cell's graph as it is handed to the device's part of MindSpore."""
        stops_at_kernel_selection(cell, *inputs)
        texts = set(self.folder.glob("*_validate_*.ir")) - self.seen
        self.seen |= texts
        assert texts, "MindSpore has not written the graph"
        return set().union(*(primitives_of(path.read_text()) for path in texts))


def primitives_of(text: str) -> set[str]:
    """The operators in a graph's text (MindSpore IR)."""
    return set(NODE.findall(text))
