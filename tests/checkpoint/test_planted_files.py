"""What another user has put beside an output, under a name that can be foreseen, is not followed."""

import os

import pytest

from orchestrator.checkpoint.atomic import new_folder
from orchestrator.core.errors import CheckpointError
from orchestrator.transfer.convert import plan_combine, plan_split, write
from tests.checkpoint.support import bloom, save_run

PLANTED = {
    "link": lambda path, victim: path.symlink_to(victim),
    "hard link": lambda path, victim: path.hardlink_to(victim),
    "pipe": lambda path, victim: os.mkfifo(path),
    "folder": lambda path, victim: path.mkdir(),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("name", [".out.ckpt.journal", ".out.ckpt.part"])
def test_what_was_planted_beside_an_output_is_not_written_to(tmp_path, kind, name):
    save_run(tmp_path / "run", [bloom(1, 2)], hosts=("checkpoint",))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    PLANTED[kind](tmp_path / name, victim)
    conversion = plan_combine(tmp_path / "run", None)
    try:
        write(conversion, tmp_path / "out.ckpt")
    except CheckpointError as error:
        assert name in str(error) and "is in the way" in str(error)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", [".out.journal", ".out.part"])
def test_a_planted_link_to_a_folder_is_not_filled_or_emptied(tmp_path, name):
    save_run(tmp_path / "run", [bloom(1, 2)], hosts=("checkpoint",))
    write(plan_combine(tmp_path / "run", None), tmp_path / "a.ckpt")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    (tmp_path / name).symlink_to(victim)
    try:
        write(plan_split(tmp_path / "a.ckpt", tmp_path / "run" / "strategy"), tmp_path / "out")
    except CheckpointError as error:
        assert "is in the way" in str(error)
    assert [path.name for path in victim.iterdir()] == ["file"]


def test_a_folder_to_be_made_does_not_empty_the_one_that_a_link_leads_to(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    (tmp_path / ".out.part").symlink_to(victim)
    with (
        pytest.raises(CheckpointError, match="is in the way: it is a symbolic link"),
        new_folder(tmp_path / "out"),
    ):
        pass
    assert (victim / "file").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_journal_of_another_user_is_not_written_to(tmp_path):
    save_run(tmp_path / "run", [bloom(1, 2)], hosts=("checkpoint",))
    planted = tmp_path / ".out.ckpt.journal"
    planted.write_text("theirs")
    os.chown(planted, 12345, 12345)
    with pytest.raises(CheckpointError, match="belongs to another user"):
        write(plan_combine(tmp_path / "run", None), tmp_path / "out.ckpt")
    assert planted.read_text() == "theirs"
