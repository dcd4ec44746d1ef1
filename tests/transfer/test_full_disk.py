"""A disk that fills up while a collection is under way, or just before its end."""

import errno
import os
import subprocess

import pytest

from orchestrator.checkpoint.copy_options import CopyOptions, Report
from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.host_files import LocalFiles
from orchestrator.core.errors import CheckpointError
from orchestrator.transfer.collect import Collection, collect
from tests.checkpoint.support import bloom, random, save_run

SIZE = 8 << 20


pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(argv, capture_output=True).returncode:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, leave=0):
    """Take all the room that is left but `leave` bytes."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(max(0, file.tell() - leave))


def collected(run, output, progress=lambda done, total: None, **how):
    source = LocalFiles(run.folders)
    options = CopyOptions(free=lambda folder: 1 << 40, **how)
    wanted = Collection(run.strategies, run.world_size)
    return collect(source, list(run.folders), wanted, output, options, Report(progress))


def test_no_room_for_the_last_file_is_found_out_before_the_output_is_there(tmp_path, disk):
    run = save_run(tmp_path, [bloom(2, 2)])
    fill(disk, leave=8192)
    with pytest.raises(CheckpointError, match=r"model.ckpt.*: cannot be written: No space left"):
        collected(run, disk / "model.ckpt")
    assert not (disk / "model.ckpt").exists()
    (disk / "filler").unlink()
    done = collected(run, disk / "model.ckpt")
    assert done.resumed == done.plan.nbytes


def test_a_disk_that_fills_up_under_way(tmp_path, disk):
    run = save_run(tmp_path, [{"w": (random((400, 100)), Layout((2, 2), (0, 1)))}])
    filled = []

    def progress(done, total):
        if done and not filled:
            filled.append(done)
            fill(disk)

    with pytest.raises(CheckpointError, match=r"model.ckpt: cannot be written: No space left"):
        collected(run, disk / "model.ckpt", progress=progress, segment_bytes=64)
    assert filled and not (disk / "model.ckpt").exists()
    (disk / "filler").unlink()
    assert collected(run, disk / "model.ckpt", segment_bytes=64).resumed >= filled[0]
