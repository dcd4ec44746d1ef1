"""What MindSpore itself says of an operator on Ascend, asked on a machine without CANN.

The wheel has MindSpore's Ascend libraries, but the loader refuses them where CANN's are not installed. So
they are loaded from copies in which what is missing is no more asked for: CANN's libraries are taken out of
DT_NEEDED, and symbols that nothing here defines get the address of a function that does nothing (ELF-64, see
elf(5); C++ names are those of the Itanium ABI). Registering operators needs no more than that.

It belongs into a process of its own: `python -m tests.model.support.ascend_registry` reads names of
primitives and prints {name: [ways]} as JSON. The ways: `aclnn`, there is a kernel that calls CANN's aclnn
API; `aclop`, there is an adapter to an operator of CANN, which CANN compiles or has a kernel of, on AI cores
or the AI CPU.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import mindspore

__all__ = ["ways_on_ascend"]

LIBRARIES = Path(mindspore.__file__).parent / "lib"
ADAPTERS = LIBRARIES / "plugin" / "ascend" / "libmindspore_ascend_res_manager.so"
KERNELS = LIBRARIES / "plugin" / "libmindspore_ops_ascend.so"

# mindspore::kernel::IsRegisteredAclnnOp(const std::string &)
HAS_ACLNN_KERNEL = "_ZN9mindspore6kernel19IsRegisteredAclnnOpERKSs"
# mindspore::device::ascend::OpAdapterMap::get(), a map from names to adapters
ADAPTER_MAP = "_ZN9mindspore6device6ascend12OpAdapterMap3getEv"
# Of CANN's functions the only one of which more is asked than to return.
STATUS_FACTORY = "_ZN2ge13StatusFactory8InstanceEv"

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB, DT_DEBUG = 0, 1, 5, 21
SHT_DYNSYM, SHN_UNDEF, SHN_ABS, STB_LOCAL, STB_GLOBAL = 11, 0, 0xFFF1, 0, 1

FUNCTION = ctypes.CFUNCTYPE(ctypes.c_void_p)


class Elf:
    """A shared library's bytes, to be changed and written."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        if self.data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path}: is no little-endian ELF-64 file")
        start, (size, count) = self._number("<Q", 32), struct.unpack_from("<HH", self.data, 54)
        headers = [struct.unpack_from("<IIQQQQ", self.data, start + n * size) for n in range(count)]
        self._loaded = [
            (vaddr, offset, length) for kind, _, offset, vaddr, _, length in headers if kind == PT_LOAD
        ]
        (self._dynamic,) = (offset for kind, _, offset, *_ in headers if kind == PT_DYNAMIC)
        strings = next(value for _, tag, value in self._dynamic_entries() if tag == DT_STRTAB)
        self._strings = next(
            offset + strings - vaddr
            for vaddr, offset, length in self._loaded
            if vaddr <= strings < vaddr + length
        )

    def _number(self, layout: str, at: int) -> int:
        return int(struct.unpack_from(layout, self.data, at)[0])

    def _dynamic_entries(self) -> Iterator[tuple[int, int, int]]:
        at = self._dynamic
        while (tag := self._number("<Q", at)) != DT_NULL:
            yield at, tag, self._number("<Q", at + 8)
            at += 16

    def _text(self, offset: int) -> str:
        start = self._strings + offset
        return self.data[start : self.data.index(0, start)].decode()

    def needed(self) -> dict[str, int]:
        """Libraries that the loader wants first, and where in the file each is said."""
        return {self._text(value): at for at, tag, value in self._dynamic_entries() if tag == DT_NEEDED}

    def undefined(self) -> Iterator[tuple[str, int]]:
        """Symbols that another library must define, and where in the file each is."""
        start, (size, count) = self._number("<Q", 40), struct.unpack_from("<HH", self.data, 58)
        for number in range(count):
            section = struct.unpack_from("<IIQQQQIIQQ", self.data, start + number * size)
            if section[1] == SHT_DYNSYM:
                for at in range(section[4], section[4] + section[5], section[9]):
                    name, info, _, where = struct.unpack_from("<IBBH", self.data, at)
                    if where == SHN_UNDEF and info >> 4 == STB_GLOBAL:
                        yield self._text(name), at

    def forget(self, needed_at: int) -> None:
        struct.pack_into("<Q", self.data, needed_at, DT_DEBUG)  # a tag that the loader passes over

    def define(self, symbol_at: int, address: int) -> None:
        kind = self.data[symbol_at + 4] & 15
        struct.pack_into("<BBHQ", self.data, symbol_at + 4, STB_LOCAL << 4 | kind, 0, SHN_ABS, address)


class StatusFactory(ctypes.Structure):
    """ge::StatusFactory, as far as it is used: an empty std::map at its beginning (libstdc++)."""

    _fields_ = (
        ("compare", ctypes.c_void_p),
        ("colour", ctypes.c_void_p),  # here the map's header begins
        ("root", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("last", ctypes.c_void_p),
        ("count", ctypes.c_size_t),
        ("more", ctypes.c_char * 4096),
    )

    def __init__(self) -> None:
        super().__init__()
        self.first = self.last = ctypes.addressof(self) + StatusFactory.colour.offset


STATUSES = StatusFactory()
DO_NOTHING = FUNCTION(lambda: 0)
GIVE_STATUSES = FUNCTION(lambda: ctypes.addressof(STATUSES))


def open_library(name: str) -> ctypes.CDLL | None:
    """A library that is loaded already, or of the system, or of MindSpore; None where it cannot be loaded."""
    folders = (LIBRARIES, LIBRARIES / "plugin", LIBRARIES / "plugin" / "ascend")
    for path in (name, *(folder / name for folder in folders if (folder / name).exists())):
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


def load_without_cann(path: Path) -> ctypes.CDLL:
    """A library of MindSpore for Ascend, with stand-ins for what is not on this machine."""
    elf = Elf(path)
    libraries = [ctypes.CDLL(None)]
    for name, at in elf.needed().items():
        library = open_library(name)
        if library is None:
            elf.forget(at)
        else:
            libraries.append(library)
    for name, at in elf.undefined():
        if not any(hasattr(library, name) for library in libraries):
            stand_in = GIVE_STATUSES if name == STATUS_FACTORY else DO_NOTHING
            elf.define(at, ctypes.cast(stand_in, ctypes.c_void_p).value or 0)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(elf.data)
        return ctypes.CDLL(str(copy), mode=ctypes.RTLD_GLOBAL)


def keys_of_map(address: int) -> set[str]:
    """The keys of MindSpore's HashMap from names, a robin_hood::unordered_node_map.

    Its words: two of the allocator, a multiplier, the slots (a pointer to an entry each), a byte for each
    slot that is not 0 where it is taken, the count of entries. An entry begins with its key.
    """
    slots, taken, count = (_pointer(address + 8 * word) for word in (3, 4, 5))
    found = set()
    for number in range((taken - slots) // 8):
        if ctypes.c_uint8.from_address(taken + number).value:
            found.add(ctypes.string_at(_pointer(_pointer(slots + 8 * number))).decode())
    if len(found) != count:
        raise RuntimeError(f"the map of adapters has {count} entries, but {len(found)} were read")
    return found


def _pointer(address: int) -> int:
    return ctypes.c_void_p.from_address(address).value or 0


class CxxString:
    """A std::string of before C++11: length, capacity and a count of references stand before its bytes."""

    def __init__(self, text: str) -> None:
        raw = text.encode()
        self._held = ctypes.create_string_buffer(struct.pack("<qqq", len(raw), len(raw), 1) + raw + b"\0")
        self._start = ctypes.c_void_p(ctypes.addressof(self._held) + 24)

    @property
    def reference(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(ctypes.addressof(self._start))


def ways_on_ascend(names: Iterable[str]) -> dict[str, list[str]]:
    """For each primitive the ways in which MindSpore has it computed on an Ascend; an empty list is none."""
    adapters, kernels = load_without_cann(ADAPTERS), load_without_cann(KERNELS)
    get_map, has_kernel = adapters[ADAPTER_MAP], kernels[HAS_ACLNN_KERNEL]
    get_map.restype, has_kernel.restype = ctypes.c_void_p, ctypes.c_bool
    adapted = keys_of_map(get_map())
    ways = {}
    for name in names:
        text = CxxString(name)
        ways[name] = ["aclnn"] * has_kernel(text.reference) + ["aclop"] * (name in adapted)
    return ways


if __name__ == "__main__":
    print(json.dumps(ways_on_ascend(sys.stdin.read().split())), flush=True)
    os._exit(0)  # what such libraries do at the end of a process is not to be had without CANN
