"""Foreign files: what a file is that is not what is wanted, by its first bytes and its name, in words.

This module is part of the agent: stdlib only, Python 3.8.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO, Optional, Tuple

__all__ = ["HEAD", "describe_foreign", "lfs_pointer", "open_regular", "read_small_json"]

# So many bytes of a file tell what it is.
HEAD = 1 << 16

Words = Tuple[str, str]  # what it is, what to do

_PANDAS = (
    "convert it to JSON lines: `pandas.{reader}({name!r}).to_json({out!r}, orient='records', lines=True)`"
)
_UNPACK = "unpack it first: `{command} {name}`"
_TABLES = {
    "CSV": "read_csv",
    "tab-separated text": "read_table",
    "Parquet": "read_parquet",
    "ORC": "read_orc",
    "Arrow": "read_feather",
    "an Excel sheet": "read_excel",
}
_PACKED = {
    "gzip": "gunzip -k",
    "bzip2": "bunzip2 -k",
    "xz": "unxz -k",
    "zstd": "unzstd",
    "lz4": "unlz4",
    "a zip archive": "unzip",
    "a 7z archive": "7z x",
    "a tar archive": "tar xf",
}
_BY_MAGIC = (
    (rb"PAR1", "Parquet"),
    (rb"ARROW1\x00", "Arrow"),
    (rb"\x1f\x8b", "gzip"),
    (rb"BZh[1-9]1AY&SY", "bzip2"),
    (rb"\xfd7zXZ\x00", "xz"),
    (rb"\x28\xb5\x2f\xfd", "zstd"),
    (rb"\x04\x22\x4d\x18", "lz4"),
    (rb"PK\x03\x04", "a zip archive"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"(?s:.{257})ustar", "a tar archive"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF", "HDF5"),
    (rb"SQLite format 3\x00", "an SQLite database"),
    (rb"%PDF-", "PDF"),
    (rb"Obj\x01", "Avro"),
    (rb"\{\\rtf", "RTF"),
)
_BY_SUFFIX = {
    ".csv": "CSV",
    ".tsv": "tab-separated text",
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".orc": "ORC",
    ".arrow": "Arrow",
    ".feather": "Arrow",
    ".xlsx": "an Excel sheet",
    ".xls": "an Excel sheet",
    ".gz": "gzip",
    ".tgz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".lz4": "lz4",
    ".zip": "a zip archive",
    ".7z": "a 7z archive",
    ".tar": "a tar archive",
    ".pdf": "PDF",
    ".docx": "a Word document",
    ".npy": "a NumPy array",
    ".npz": "NumPy arrays",
    ".pkl": "a Python pickle",
    ".pickle": "a Python pickle",
    ".pt": "PyTorch's",
    ".pth": "PyTorch's",
    ".h5": "HDF5",
    ".sqlite": "an SQLite database",
    ".mindrecord": "MindRecord, which is prepared already",
    ".tfrecord": "TFRecord",
}
_WIDE = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_LFS = b"version https://git-lfs.github.com/spec/"
# A form feed, an escape, a backspace and the separators of old teletypes do stand in texts.
_CONTROL = re.compile(rb"[\x00-\x07\x0e-\x1a]")


def open_regular(path: Path) -> BinaryIO:
    """A regular file for reading. Raises OSError, without waiting where a pipe or device stands there."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise OSError(0, f"it is {kind}, not a file", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_small_json(path: Path, largest: int) -> Any:
    """The value of a file of at most so many bytes; None where there is none, or it is no JSON."""
    try:
        with open_regular(path) as file:
            raw = file.read(largest + 1)
        return json.loads(raw) if len(raw) <= largest else None
    except (OSError, ValueError, RecursionError):
        return None


def lfs_pointer(head: bytes) -> Optional[Words]:
    """The words for what `git clone` leaves of a large file where git-lfs is not installed."""
    if head.startswith(_LFS):
        return "is a Git LFS pointer, not the file itself", "run `git lfs pull` in its folder"
    return None


def describe_foreign(head: bytes, name: str) -> Optional[Words]:
    """The words for a file that is neither JSON nor text, by its first HEAD bytes and its name; else None."""
    if words := lfs_pointer(head):
        return words
    for mark, encoding in _WIDE.items():
        if head.startswith(mark):
            return f"is {encoding}", f"save it as UTF-8: `iconv -f {encoding} -t UTF-8`"
    suffix = Path(name).suffix.lower()
    kind = next((kind for magic, kind in _BY_MAGIC if re.match(magic, head)), None)
    if kind == "a zip archive":  # which office documents and PyTorch's files are, too
        kind = _BY_SUFFIX.get(suffix, kind)
    kind = kind or _BY_SUFFIX.get(suffix)
    if kind is not None:
        return f"is {kind}, which is not read here", _remedy(kind, name)
    # One of them here or there stands in text that was taken out of other documents.
    if b"\0" in head or len(_CONTROL.findall(head)) * 200 > len(head):
        return "is binary", "give JSON, JSON lines or plain text in UTF-8"
    if _is_csv(head):
        return "is CSV, which is not read here", _remedy("CSV", name)
    return None


def _is_csv(head: bytes) -> bool:
    """Whether the first line names columns that records have."""
    line = head.split(b"\n", 1)[0].strip().lower()
    columns = {column.strip(b" \"'\xef\xbb\xbf") for column in re.split(rb"[,;\t]", line)}
    return columns >= {b"instruction", b"output"} or columns >= {b"prompt", b"completion"}


def _remedy(kind: str, name: str) -> str:
    short = Path(name).name
    if kind in _TABLES:
        out = f"{Path(short).stem}.jsonl"
        return _PANDAS.format(reader=_TABLES[kind], name=short, out=out)
    if kind in _PACKED:
        return _UNPACK.format(command=_PACKED[kind], name=short)
    if kind.startswith("MindRecord"):
        return "name it as data.path"
    return "convert it to JSON lines"
