"""Whether a folder lies on a file system that other hosts may have mounted, too, and where on it.

Format: /proc/self/mountinfo, as proc(5) describes it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["place_of", "shared_place"]

# By the type that the kernel gives; FUSE is asked about by what it stands for.
_NETWORK = re.compile(
    r"nfs4?|lustre|gpfs|beegfs|ceph|glusterfs|cifs|smb3|9p|afs|gfs2|ocfs2|orangefs|pvfs2|wekafs|panfs"
    r"|fuse\.(?!fuse-overlayfs|overlay|gvfs|portal|snapfuse|lxcfs|squashfuse).*"
)
# Of so much is read: no host has more mounts.
_MOST_BYTES = 4 << 20


def shared_place(folder: Path) -> str:
    """Type, source and path there of a folder on a network's file system; "" for any other, or unknown."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            mounts = file.read(_MOST_BYTES)
    except OSError:
        return ""
    return place_of(os.path.realpath(str(folder)), mounts)


def place_of(path: str, mounts: str) -> str:
    """As `shared_place`, of a path without links, and the text of mountinfo. Pure."""
    best = ("", "", "", "")
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        if len(fields) < 5 or len(rest) < 2:
            continue
        root, point = _plain(fields[3]), _plain(fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # Of two mounts at one place the later one is seen.
        if inside and len(point) >= len(best[0]):
            best = (point, root, rest[0], _plain(rest[1]))
    point, root, kind, source = best
    if not _NETWORK.fullmatch(kind):
        return ""
    return "{} {}:{}".format(
        kind,
        source,
        os.path.normpath("/" + root.strip("/") + "/" + path[len(point.rstrip("/")) :].strip("/")).replace(
            "//", "/"
        ),
    )


def _plain(text: str) -> str:
    """Blanks, tabs, newlines and backslashes are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)
