"""Files as PyTorch writes them, written without it: opcodes put down one by one."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

__all__ = ["write_torch"]

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage"}


def write_torch(path: Path, tensors: Mapping[str, np.ndarray]) -> Path:
    """A state_dict; the same array under two names is one storage."""
    keys: dict[int, str] = {}
    body = b""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in tensors.items():
            if id(array) not in keys:
                keys[id(array)] = str(len(keys))
                archive.writestr(f"archive/data/{keys[id(array)]}", array.tobytes())
            body += _text(name) + _tensor(array, keys[id(array)])
        archive.writestr("archive/data.pkl", b"\x80\x02ccollections\nOrderedDict\n)R(" + body + b"u.")
        archive.writestr("archive/byteorder", b"little")
    return path


def _tensor(array: np.ndarray, key: str) -> bytes:
    kind = _STORAGES[array.dtype.name].encode()
    storage = b"(" + _text("storage") + b"ctorch\n" + kind + b"\n" + _text(key) + _text("cpu")
    strides = [step // array.itemsize for step in array.strides]
    view = b"tQ" + _number(0) + _row(array.shape) + _row(strides)
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _number(array.size) + view + hooks + b"tR"


def _number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)


def _text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def _row(values) -> bytes:
    return b"(" + b"".join(_number(value) for value in values) + b"t"
