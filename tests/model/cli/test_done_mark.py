from __future__ import annotations

import pytest

from model.cli.shared_options import marked_done
from orchestrator.core.paths import RunDir


def test_the_mark_is_there_once_the_work_is_done(tmp_path):
    mark = RunDir(tmp_path).attempt.done("rank_3")
    with marked_done(3, tmp_path):
        assert not mark.exists()
    assert mark.exists()


def test_work_that_breaks_off_leaves_no_mark_not_even_an_old_one(tmp_path):
    mark = RunDir(tmp_path).attempt.done("rank_0")
    mark.parent.mkdir()
    mark.touch()
    with pytest.raises(KeyError), marked_done(0, tmp_path):
        raise KeyError
    assert not mark.exists()
