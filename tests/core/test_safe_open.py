"""Files that are opened without a link, a hang or a surprise."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.core.safe_open import (
    open_safely,
    own_folders,
    read_end,
    read_safely,
    require_own_folder,
    require_regular,
    visible,
)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def listen(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


FOREIGN: dict[str, Callable[[Path], object]] = {
    "it is a named pipe": os.mkfifo,
    "it is a folder": Path.mkdir,
    "it is a symbolic link, which is not followed": lambda path: path.symlink_to("good"),
    "it is a socket or a device": listen,
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs, itself behind a link, with a file in one."""
    (tmp_path / "real/run").mkdir(parents=True)
    (tmp_path / "real/run/good").write_bytes(b"0123456789")
    (tmp_path / "runs").symlink_to("real")
    return tmp_path / "runs"


def test_a_file_is_read_as_far_as_it_may_be_large(runs: Path) -> None:
    good = runs / "run/good"
    assert read_safely(good, runs, 10) == b"0123456789"
    with pytest.raises(OSError, match=r"more bytes than such a file can have \(9\)"):
        read_safely(good, runs, 9)
    assert read_end(good, runs, 3) == b"789" and read_end(good, runs, 99) == b"0123456789"
    with pytest.raises(FileNotFoundError) as caught:
        read_safely(runs / "run/none", runs, 9)
    assert caught.value.filename == str(runs / "run/none")


def test_a_file_of_the_kernel_that_has_no_size_is_read(tmp_path: Path) -> None:
    """Its bytes are more than its size says; so are those of a file that grows under our eyes."""
    maps = Path("/proc/self/status")
    assert os.stat(maps).st_size == 0 and b"Uid:" in read_safely(maps.resolve(), Path("/proc"), 1 << 16)


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_no_file_is_told_and_nothing_hangs(runs: Path, what: str) -> None:
    path = runs / "run/odd"
    FOREIGN[what](path)
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_APPEND):
        with pytest.raises(OSError, match=what) as caught:
            open_safely(path, runs, flags)
        assert caught.value.filename == str(path)
    with pytest.raises(OSError, match=what):
        require_regular(path)
    assert (runs / "run/good").read_bytes() == b"0123456789"


def test_no_link_on_the_way_is_followed(runs: Path) -> None:
    (runs / "again").symlink_to("run")
    (runs / "run/inner").symlink_to(runs)
    for path in (runs / "again/good", runs / "run/inner/run/good"):
        with pytest.raises(OSError, match="a symbolic link, which is not followed"):
            read_safely(path, runs, 99)


def test_no_descriptor_is_left_open(runs: Path) -> None:
    os.mkfifo(runs / "run/pipe")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("pipe", "none", "good/none"):
        with pytest.raises(OSError):
            open_safely(runs / "run" / name, runs)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_made_private(runs: Path) -> None:
    os.close(open_safely(runs / "run/new", runs, os.O_RDWR | os.O_CREAT))
    assert stat.S_IMODE((runs / "run/new").stat().st_mode) == 0o600


@root_only
def test_the_run_of_another_user_is_not_entered(runs: Path) -> None:
    os.chown(runs / "run", 12345, 12345)
    with pytest.raises(OSError, match=r"it belongs to another user \(uid 12345\)") as caught:
        read_safely(runs / "run/good", runs, 99)
    assert caught.value.filename == str(runs / "run/good")
    with pytest.raises(OSError, match="another user"):
        require_own_folder(runs / "run")
    # Who owns the folder of runs could replace them all; a file server may give all files to one account.
    os.chown(runs, 12345, 12345)
    assert read_safely(runs / "run/good", runs, 99)
    require_own_folder(runs / "run")


@root_only
def test_what_a_container_has_written_into_a_run_of_ours_is_read(runs: Path) -> None:
    os.chown(runs / "run/good", 12345, 12345)
    assert read_safely(runs / "run/good", runs, 99)


def test_folders_are_listed_and_all_else_is_told(runs: Path) -> None:
    (runs / "another").mkdir()
    (runs / ".nfs0001").touch()
    (runs / "file\x1b[2J").touch()
    (runs / "link").symlink_to("run")
    os.mkfifo(runs / "pipe")
    found, others = own_folders(runs)
    assert found == [runs / "another", runs / "run"]
    assert others == [
        f"{runs}/file\\x1b[2J: it is a file: no run of yours, passed over",
        f"{runs}/link: it is a symbolic link, which is not followed: no run of yours, passed over",
        f"{runs}/pipe: it is a named pipe: no run of yours, passed over",
    ]
    assert own_folders(runs / "none") == ([], [])


def test_names_of_others_are_shown_and_not_obeyed() -> None:
    assert visible("wörk 用户") == "wörk 用户"
    assert visible("a\n\x1b[31m\u202eb") == "a\\n\\x1b[31m\\u202eb"
    assert visible(os.fsdecode(b"\xff")) == "\\udcff"
