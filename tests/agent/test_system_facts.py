"""What a host's system allows, by files that stand for the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agent.system_facts import free_memory


@pytest.mark.parametrize(
    ("text", "free"),
    [
        ("MemTotal:       24000000 kB\nMemFree:  5 kB\nMemAvailable:   18000000 kB\n", 18_000_000 << 10),
        ("MemTotal:       24000000 kB\nMemFree:  5 kB\n", None),
        ("MemAvailable:   much kB\n", None),
        ("", None),
    ],
)
def test_the_memory_that_is_free_is_what_the_kernel_says(tmp_path: Path, text: str, free: int | None) -> None:
    path = tmp_path / "meminfo"
    path.write_text(text)
    assert free_memory(str(path)) == free
    assert free_memory(str(tmp_path / "none")) is None
