"""The folder for a step that is cut anew: room is asked for first, and what a killed one left goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.core.errors import PreflightError
from orchestrator.core.paths import ControlDir
from orchestrator.transfer.step_spool import require_room, step_spool


@pytest.fixture
def control(tmp_path: Path) -> ControlDir:
    control = ControlDir(tmp_path / "runs" / "r1")
    control.make(1)
    return control


def test_a_step_for_which_there_is_no_room_is_refused_in_a_line(control: ControlDir) -> None:
    require_room(control, 10**9, free=lambda folder: 2 * 10**9)
    with pytest.raises(PreflightError) as caught:
        require_room(control, 10**9, free=lambda folder: 10**9)
    (line,) = caught.value.lines()
    assert line.startswith(f"{control.root}: another layout is put together here, which takes 1.07 GB, and")
    assert caught.value.exit_code == 4


def test_it_is_gone_at_the_end_and_at_an_error(control: ControlDir) -> None:
    before = set(control.root.iterdir())
    with step_spool(control) as folder:
        (folder / "whole.ckpt").write_bytes(b"x")
    with pytest.raises(ZeroDivisionError), step_spool(control) as folder:
        (folder / "whole.ckpt").write_bytes(b"x")
        raise ZeroDivisionError
    assert set(control.root.iterdir()) == before


def test_what_is_in_use_stays_and_what_a_killed_one_left_goes(control: ControlDir) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from orchestrator.core.paths import ControlDir\n"
        "from orchestrator.transfer.step_spool import step_spool\n"
        "with step_spool(ControlDir(Path(sys.argv[1]))) as folder:\n"
        "    (folder / 'whole.ckpt').write_bytes(b'x'); os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(control.root)], check=False)
    assert done.returncode == 9
    (left,) = control.root.glob(".resume-*")
    with step_spool(control) as mine:
        assert not left.exists()
        (mine / "whole.ckpt").write_bytes(b"x")
        require_room(control, 1)
        with step_spool(control) as other:
            assert mine != other and (mine / "whole.ckpt").exists()


def test_no_link_is_followed(control: ControlDir, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    os.symlink(precious, control.root / ".resume-evil")
    with step_spool(control):
        pass
    assert (precious / "file").read_text() == "x"
