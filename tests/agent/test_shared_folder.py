"""Where a folder lies, by the kernel's table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.agent.shared_folder import place_of, shared_place

MOUNTS = """\
22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
40 22 0:41 / /home rw,relatime shared:20 - nfs4 nas:/export/home rw,vers=4.2
41 22 0:42 /team /data\\040set rw shared:21 - lustre 10.0.0.9@tcp:/fs rw
42 40 0:43 / /home/local rw - tmpfs tmpfs rw
43 22 0:44 / /images rw - fuse.juicefs JuiceFS:jfs rw
44 22 0:45 / /overlay rw - fuse.fuse-overlayfs overlay rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/home/me/.orchestrate", "nfs4 nas:/export/home:/me/.orchestrate"),
        ("/home", "nfs4 nas:/export/home:/"),
        ("/homes/me", ""),
        ("/home/local/x", ""),
        ("/data set/runs", "lustre 10.0.0.9@tcp:/fs:/team/runs"),
        ("/images/x", "fuse.juicefs JuiceFS:jfs:/x"),
        ("/overlay/x", ""),
        ("/opt", ""),
    ],
)
def test_the_place_on_a_file_system_of_the_network(path: str, place: str) -> None:
    assert place_of(path, MOUNTS) == place


def test_a_later_mount_hides_an_earlier_one() -> None:
    later = MOUNTS + "50 22 8:3 / /home rw - ext4 /dev/sdb1 rw\n"
    assert place_of("/home/me", later) == ""


def test_this_machine_is_asked(tmp_path: Path) -> None:
    assert isinstance(shared_place(tmp_path / "not there"), str)
    assert place_of(str(tmp_path), "") == ""
