"""Damaged files: the right answer or one CheckpointError, and quickly."""

import random as chance
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import (
    Strategy,
    parse_strategies,
    read_strategy,
    write_strategy,
)
from orchestrator.checkpoint.files.tensor_files import (
    read_ckpt,
    read_safetensors,
    write_ckpt,
    write_safetensors,
)
from orchestrator.checkpoint.files.tensor_types import Tensor
from orchestrator.core.errors import CheckpointError
from orchestrator.formats.ckpt_index import crc_matches, index_buffer
from orchestrator.formats.safetensors_index import safetensors_entries


def _ckpt(path):
    tensors = [("w", np.arange(6, dtype=np.float32).reshape(2, 3)), ("n", np.array(3)), ("note", "text")]
    write_ckpt(path, [*tensors, ("bf", Tensor.of(np.ones(3, np.uint16), "BFloat16"))], piece_limit=16)


def _safetensors(path):
    write_safetensors(path, [("w", np.arange(6, dtype=np.float32).reshape(2, 3)), ("n", np.array(3))])


def _strategy(path):
    layouts = {"w": Layout((2, 2), (0, -1), 2, 2), "v": Layout((2, 2, 2), ((1, 0), -1))}
    write_strategy(path, Strategy(1, layouts))


def _use_tensors(read):
    def use(path):
        for tensor in read(path).values():
            assert tensor.nbytes <= 1000
            assert tensor.text() if tensor.dtype == "str" else tensor.array().nbytes == tensor.nbytes

    return use


CASES = {
    "ckpt": (_ckpt, _use_tensors(read_ckpt)),
    "safetensors": (_safetensors, _use_tensors(read_safetensors)),
    "strategy": (_strategy, read_strategy),
}
MUTATION = st.tuples(
    st.sampled_from(["flip", "cut", "drop", "insert", "repeat"]),
    st.integers(0, 1 << 30),
    st.binary(max_size=12),
)


def mutate(content, kind, at, extra):
    position = at % len(content)
    if kind == "flip":
        return content[:position] + bytes([content[position] ^ (1 << at % 8)]) + content[position + 1 :]
    if kind == "cut":
        return content[:position]
    if kind == "drop":
        return content[:position] + content[position + 1 + len(extra) :]
    if kind == "insert":
        return content[:position] + extra + content[position:]
    return content[: position + 1] + content[position // 2 :]


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=200, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(MUTATION, min_size=1, max_size=3))
def test_a_damaged_file_is_read_right_or_refused(tmp_path, case, changes):
    write, use = CASES[case]
    write(tmp_path / "f")
    content = (tmp_path / "f").read_bytes()
    for change in changes:
        content = mutate(content, *change) or b"\0"
    (tmp_path / "f").write_bytes(content)
    try:
        use(tmp_path / "f")
    except CheckpointError as error:
        assert "\n" not in str(error)


def spans(entries, content):
    """Name, shape, type and bytes of every tensor; they must lie in the file and be what the shape takes."""
    found = {}
    for entry in entries:
        data = b"".join(content[offset : offset + length] for offset, length in entry["pieces"])
        assert len(data) == sum(length for _, length in entry["pieces"])
        found[entry["name"]] = (tuple(entry["dims"]), entry["dtype"], data)
    return found


def read_checked_ckpt(content):
    entries = list(index_buffer(content, "f"))
    if not crc_matches(content):
        raise CheckpointError("the checksum does not fit")
    return spans(entries, content)


def read_entries(content):
    return spans(safetensors_entries(content, "f")[0], content)


def read_layouts(content):
    return {
        (one.stage, name): layout
        for one in parse_strategies(content, "f")
        for name, layout in one.layouts.items()
    }


def random_change(dice, content):
    kind = dice.choice(["flip", "cut", "drop", "insert", "repeat"])
    return mutate(content, kind, dice.randrange(1 << 30), dice.randbytes(dice.randrange(12))) or b"\0"


@pytest.mark.parametrize(
    ("case", "read", "count"),
    [
        ("ckpt", read_checked_ckpt, 4000),
        ("safetensors", read_entries, 3000),
        ("strategy", read_layouts, 3000),
    ],
)
def test_ten_thousand_damaged_files(tmp_path, case, read, count):
    CASES[case][0](tmp_path / "f")
    sound = (tmp_path / "f").read_bytes()
    if case == "ckpt":
        sound += b"crc_num" + zlib.crc32(sound).to_bytes(10, "big")
    truth, dice, refused = read(sound), chance.Random(case), 0
    for _ in range(count):
        content = sound
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            content = random_change(dice, content)
        try:
            found = read(content)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            # A checksum that is there and fits leaves no room for other values.
            assert case != "ckpt" or b"crc_num" not in content[-17:-10] or found == truth
    assert refused > count // 4
