"""Each operator of the model's graphs has a way on an Ascend, and no slow one comes in unseen.

The graphs are compiled here, on a CPU, as an Ascend would build them (`ascend_graphs`); what Ascend has is
asked of MindSpore's own libraries for it (`ascend_registry`). Not seen here: single operators outside of
graphs; what CANN's aclnn functions do within; and chips older than A2, where CANN lacks some of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mindspore
import pytest

pytestmark = pytest.mark.mindspore

ROOT = Path(__file__).parents[3]
LIBRARIES = Path(mindspore.__file__).parent / "lib"
AI_CPU_KERNELS = LIBRARIES / "plugin/ascend/custom_aicpu_ops/op_impl/cpu/config/cust_aicpu_kernel.json"

# Nothing is computed for these: they say what belongs together and what comes first, or are another view.
NO_KERNEL = {"Depend", "ExpandDims", "Load", "MakeTuple", "Reshape", "TupleGetItem", "UpdateState"}

# MindSpore's back end for Ascend replaces these before it chooses kernels: operator -> (the pass that does,
# what takes its place).
REPLACED = {
    "AdamWeightDecay": ("AdamWeightDecayUnifyMindIR", ("AdamApplyOneWithDecayAssign",)),
}

# HCCL computes these, in kernels of these names.
BY_HCCL = {
    "AllGather": "HcomAllGatherKernel",
    "AllReduce": "HcomAllReduceKernel",
    "ReduceScatter": "HcomAllReduceScatterKernel",
}

# By CANN's older interface, aclop, alone: CANN's Python side must be there to compile them, and a call costs
# the host more than one of aclnn. They are for the AI cores, as far as documents say: none has run here.
BY_ACLOP = {
    "AdamApplyOneWithDecayAssign": "the update of float32 weights, in one kernel",
    "AddN": "gradients of what is used more than once",
    "Assign": "weights, moments and sums are stored in place",
    "AssignAdd": "the sums of micro batches",
    "FastGeLU": "hidden_act fast_gelu, in one kernel",
    "FastGeLUGrad": "its backward",
    "Gather": "the rows of the embedding",
    "GatherNd": "the last token of each prompt",
    "LayerNorm": "with the mean and the variance that its backward takes",
    "LayerNormGrad": "the norms' backward",
    "NPUClearFloatStatusV2": "the overflow register of a chip that saturates",
    "NPUGetFloatStatusV2": "the same",
    "ScatterUpdate": "a token's keys and values go into the cache",
    "Slice": "the gradient of a concatenation",
    "Stack": "loss and squares, which travel together",
    "StridedSlice": "parts of tables and of flat buffers",
    "StridedSliceGrad": "the loss of a cut vocabulary",
    "TensorMove": "what is read before it is overwritten",
    "UnsortedSegmentSum": "the gradient of the embedding's rows",
}

# MindSpore brings kernels for the AI CPU of these, too, but CANN has its own for the AI cores (by its lists).
AI_CORES_FIRST = {"AddN", "GatherNd", "Slice", "UnsortedSegmentSum"}

# In graphs of the oldest MindSpore alone; the newest has SplitWithSize there, by aclnn.
OF_THE_OLDEST = {"Slice"}
# By aclop alone in the oldest MindSpore; the newest has an aclnn kernel.
BY_ACLOP_IN_THE_OLDEST = {"TensorScatterAdd": "the backward of the loss"}
IS_OLDEST = mindspore.__version__.startswith("2.7.")


def run(module: str, *arguments: str, text: str = "") -> str:
    """The last line that a module prints, in a process of its own."""
    more = {
        "PYTHONPATH": str(ROOT),
        "GLOG_v": "3",
        "OMP_NUM_THREADS": "1",
        "MS_DEV_DUMP_IR_PASSES": "validate",
    }
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, input=text, env={**os.environ, **more}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{module}: {done.returncode}\n{done.stderr[-3000:]}"
    return done.stdout.splitlines()[-1]


def ways_of(names: Iterable[str]) -> Mapping[str, list[str]]:
    return json.loads(run("tests.model.support.ascend_registry", text="\n".join(names)))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> Mapping[str, list[str]]:
    """The operators of each graph, from two processes: it is compiling that takes the time."""
    folders = [str(tmp_path_factory.mktemp("graphs")) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(
            lambda half: json.loads(run("tests.model.support.ascend_graphs", folders[half], str(half), "2")),
            range(2),
        )
        return {name: found for half in halves for name, found in half.items()}


@pytest.fixture(scope="module")
def ways(graphs) -> Mapping[str, list[str]]:
    """For every operator of any graph, and what takes its place, the ways that MindSpore has on Ascend."""
    return ways_of(sorted(in_place_of(name for found in graphs.values() for name in found)))


def in_place_of(names: Iterable[str]) -> set[str]:
    """The operators that are left when the back end has replaced what it replaces."""
    return {after for name in names for after in REPLACED.get(name, ("", (name,)))[1]}


def ai_cpu_kernels() -> set[str]:
    """The operators that MindSpore brings a kernel for the AI CPU for."""
    return set(json.loads(AI_CPU_KERNELS.read_text()))


def problems(names: Iterable[str], ways: Mapping[str, list[str]]) -> list[str]:
    """What is wrong with these operators on an Ascend, one line each."""
    found = []
    for name in sorted(in_place_of(names) - NO_KERNEL - set(BY_HCCL)):
        if not ways[name]:
            found.append(f"{name}: Ascend has no kernel")
        elif "aclnn" in ways[name]:
            continue
        elif name in ai_cpu_kernels() - AI_CORES_FIRST:
            found.append(f"{name}: is computed on the AI CPU")
        elif name not in BY_ACLOP and not (IS_OLDEST and name in BY_ACLOP_IN_THE_OLDEST):
            found.append(
                f"{name}: has no aclnn kernel; does CANN have one for its AI cores, or for the AI CPU?"
            )
    return found


def test_every_operator_of_every_graph_has_a_known_way(graphs, ways):
    assert len(graphs) > 15
    assert {name: found for name in graphs if (found := problems(graphs[name], ways))} == {}


def test_the_lists_hold_what_the_graphs_have_and_nothing_else(graphs, ways):
    used = {name for found in graphs.values() for name in found}
    left = in_place_of(used)
    gone = set() if IS_OLDEST else OF_THE_OLDEST
    assert set(REPLACED) <= used
    assert (NO_KERNEL | set(BY_HCCL) | set(BY_ACLOP) | AI_CORES_FIRST) - left == gone
    by_aclnn = {name for name in left if "aclnn" in ways[name]}
    assert not by_aclnn & (set(BY_ACLOP)), "has an aclnn kernel now: off the list"
    assert ai_cpu_kernels() & set(BY_ACLOP) >= AI_CORES_FIRST


def test_the_libraries_know_the_passes_and_the_collectives_that_are_counted_on():
    back_ends = b"".join(path.read_bytes() for path in LIBRARIES.glob("libmindspore*backend*.so"))
    for name in (name for name, _ in REPLACED.values()):
        assert name.encode() in back_ends, name
    kernels = (LIBRARIES / "plugin/libmindspore_ops_ascend.so").read_bytes()
    for name in BY_HCCL.values():
        assert name.encode() in kernels, name


def test_what_does_not_exist_or_is_slow_is_found():
    names = ["Add", "NoSuchOperator", "Qr", "Range", "RightShift"]
    ways = ways_of(names)
    assert ways["Add"] == ["aclnn", "aclop"] and ways["RightShift"] == ["aclop"]
    assert problems(names, ways) == [
        "NoSuchOperator: Ascend has no kernel",
        "Qr: is computed on the AI CPU",
        "Range: has no aclnn kernel; does CANN have one for its AI cores, or for the AI CPU?",
        "RightShift: is computed on the AI CPU",
    ]


def test_graphs_are_read(graphs):
    """That a list of operators is whole shows by what must be in it."""
    flash = graphs["step, bfloat16, flash attention and its dropout"]
    assert {
        "FlashAttentionScore",
        "FlashAttentionScoreGrad",
        "DropoutGenMaskExt",
        "DropoutExt",
        "MatMul",
    } <= set(flash)
    plain = graphs["step, float16, seeded dropout, recompute"]
    assert {"Softmax", "SoftmaxBackward", "DropoutExt"} <= set(plain) and "AllReduce" not in plain
    layers = graphs["step, float16, flash attention, every group, cut sequence and vocabulary"]
    assert {"AllGather", "AllReduce", "ReduceScatter"} <= set(layers)
    assert "AdamWeightDecay" in graphs["update, float32 weights"]
    assert "ScatterUpdate" in graphs["decoding, a token; exported as MindIR, too"]
