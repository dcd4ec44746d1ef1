from __future__ import annotations

import os
import subprocess
import sys

import pytest

from model.done import marked_done
from orchestrator.layout import RunDir


def test_the_mark_is_there_once_the_work_is_done(tmp_path):
    mark = RunDir(tmp_path).done("rank_3")
    code = (
        "import os, pathlib; from model.done import marked_done\n"
        f"with marked_done(3, pathlib.Path({str(tmp_path)!r})): assert not os.path.exists({str(mark)!r})\n"
        "print(os.sched_getscheduler(0) == os.SCHED_BATCH)"
    )
    # In a process of its own: the scheduling of this one is to stay as it is.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n" and mark.exists()


def test_work_that_breaks_off_leaves_no_mark_not_even_an_old_one(tmp_path):
    mark = RunDir(tmp_path).done("rank_0")
    mark.parent.mkdir()
    mark.touch()
    with pytest.raises(KeyError), marked_done(0, tmp_path):
        raise KeyError
    assert not mark.exists()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
