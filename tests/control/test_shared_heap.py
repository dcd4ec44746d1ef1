"""One heap for all threads: what the C library maps for others is counted in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Each thread takes and gives back what is too large for Python's own allocator and too small for a mapping.
# A heap of another thread is a mapping of which most is reserved and may not be touched.
_MAPPED = """
import re, sys, threading
from orchestrator.control.shared_heap import share_heap
if sys.argv[1] == "shared":
    share_heap()
meet = threading.Barrier(4)
def work():
    held = [bytes(60000) for _ in range(20)]
    meet.wait()
threads = [threading.Thread(target=work) for _ in range(4)]
[each.start() for each in threads], [each.join() for each in threads]
maps = open("/proc/self/maps").read()
ranges = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) ---p 00000000 00:00 0 *$", maps, re.M)
print(sum(32 << 20 < int(end, 16) - int(begin, 16) <= 64 << 20 for begin, end in ranges))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no heap for each thread")
def test_threads_take_memory_from_one_heap() -> None:
    found = {
        kind: int(subprocess.run([sys.executable, "-c", _MAPPED, kind], stdout=-1, check=True).stdout)
        for kind in ("own", "shared")
    }
    assert found["own"] > 0 and found["shared"] == 0
