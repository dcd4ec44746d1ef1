"""Calls of a runtime: what is kept of its answer, and that no answer takes all memory or all time."""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from orchestrator.agent import container_runtime
from orchestrator.agent.container_runtime import call
from orchestrator.agent.processes import identify
from orchestrator.testing.waiting import eventually

ECHO = "import shutil, sys; shutil.copyfileobj(sys.stdin, sys.stdout)"


def python(program: str, timeout: float = 60.0, stdin: bytes = b"") -> container_runtime.Call:
    return call([sys.executable, "-c", program], timeout, stdin)


def test_all_that_it_is_told_arrives_and_the_last_64_kib_of_its_answer_are_kept() -> None:
    text = "".join(f"{number:07}\n" for number in range(1 << 17))  # 1 MiB, more than a pipe holds
    assert python(ECHO, stdin=text.encode()) == (0, text[-(1 << 16) :], "")
    assert python("print('é' * 9); import sys; sys.exit('no')").output.splitlines() == ["é" * 9, "no"]


def test_a_runtime_that_reads_nothing_or_speaks_no_more_is_heard_to_its_end() -> None:
    assert python("print('here')", stdin=b"x" * (1 << 20)) == (0, "here\n", "")
    assert python("import os, time; os.close(1); os.close(2); time.sleep(0.3); os._exit(3)").code == 3


def test_what_has_no_end_is_ended_and_not_held(tmp_path: Path) -> None:
    program = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    tracemalloc.start()
    try:
        found = python(program + "while True: print('x' * 9999)")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.code, found.output) == (None, "") and found.why.endswith("says more than 8 MiB")
    assert peak < 2 << 20
    eventually(lambda: identify(int((tmp_path / "pid").read_text())) is None, what="it is gone")


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(600)",
        "import time\nwhile True: print('x', flush=True); time.sleep(0.01)",
        "import os, time; os.close(1); os.close(2); time.sleep(600)",
    ],
)
def test_a_time_limit_holds_for_silence_and_for_a_trickle(program: str) -> None:
    began = time.monotonic()
    found = python(program, 0.5)
    assert found.code is None and "does not answer within 0.5 s" in found.why
    assert time.monotonic() - began < 30.0
    assert "no time was left" in python(program, 0.0).why
