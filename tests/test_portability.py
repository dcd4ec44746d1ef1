"""What differs from machine to machine: sizes of pages, the order of bytes, names of architectures."""

from __future__ import annotations

import ast
import functools
import mmap
import os
from collections import defaultdict
from pathlib import Path

import pytest

from orchestrator.checkpoint.placed_file import WINDOW, Windows

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for home in ("orchestrator", "model")
    for path in (ROOT / home).rglob("*.py")
    if path.parent.name != "testing"  # stand-ins for machines of one kind
)
# Linux on aarch64 has pages of 4, 16 or 64 KiB, as its kernel was built.
LARGEST_PAGE = 64 << 10
# struct timeval is the C compiler's; who is at the other end of a socket, the kernel's.
OF_THE_MACHINE = {
    ("orchestrator/hosts/socket_timeouts.py", "@ll"),
    ("orchestrator/control/monitor_socket.py", "3i"),
    ("orchestrator/agent/lock_handover.py", "3i"),
    ("orchestrator/agent/container_keeper.py", "3i"),
}


def test_windows_begin_where_a_page_begins_on_every_kernel(tmp_path: Path) -> None:
    assert WINDOW % LARGEST_PAGE == 0 == WINDOW % mmap.ALLOCATIONGRANULARITY
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(WINDOW + 5)
    descriptor = os.open(path, os.O_RDWR)
    windows = Windows(descriptor, WINDOW + 5)
    with windows.window(1) as mapped:
        mapped[0:5] = b"there"
    windows.close()
    os.close(descriptor)
    assert path.read_bytes()[WINDOW:] == b"there"


@functools.cache
def all_calls() -> dict[str, list[tuple[str, ast.Call]]]:
    """All calls of functions and methods with a dot before their name, by that name, with the file's path."""
    found = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found[node.func.attr].append((str(path.relative_to(ROOT)), node))
    return found


def calls(name: str) -> list[tuple[str, ast.Call]]:
    return all_calls().get(name, [])


def beginning(node: ast.expr) -> str:
    """How a text that is written in the source begins; empty where it is none."""
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    return str(node.value) if isinstance(node, ast.Constant) else ""


@pytest.mark.parametrize(
    "name", ["pack", "unpack", "unpack_from", "pack_into", "iter_unpack", "calcsize", "Struct"]
)
def test_packed_bytes_say_their_order(name: str) -> None:
    for where, call in calls(name):
        if ast.unparse(call.func).startswith("struct."):
            form = beginning(call.args[0])
            assert form[:1] in ("<", ">") or (where, form) in OF_THE_MACHINE, f"{where}:{call.lineno}"


def test_arrays_over_bytes_say_their_order() -> None:
    found = list(calls("frombuffer"))
    assert len(found) > 5
    for where, call in found:
        kind = call.args[1]
        named = isinstance(kind, ast.Subscript)  # one of the tables of types, which the next test reads
        assert named or beginning(kind)[:1] == "<" or ast.unparse(kind) == "np.uint8", (
            f"{where}:{call.lineno}"
        )


def test_types_of_numbers_say_their_order() -> None:
    found = [(where, call) for where, call in calls("dtype") if ast.unparse(call.func) == "np.dtype"]
    assert len(found) > 10
    for where, call in found:
        kind = call.args[0]
        assert beginning(kind)[:1] == "<" or ast.unparse(kind) in ("bool", "np.bool_"), (
            f"{where}:{call.lineno}"
        )


def test_no_architecture_is_named() -> None:
    for path in SOURCES:
        text = path.read_text()
        assert not any(name in text for name in ("x86_64-", "aarch64-", "amd64")), path
