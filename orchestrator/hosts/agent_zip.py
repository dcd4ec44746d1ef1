"""What a host gets of the agent: one zip file, and its modules compiled for the Python that runs here.

The zip has the same bytes for the same sources, so that its hash can name it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import marshal
import sys
import zipfile
import zlib
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import MAGIC_NUMBER
from pathlib import Path, PurePosixPath
from types import CodeType

import orchestrator
from orchestrator.hosts.lean_code import lean_code
from orchestrator.hosts.made_once import made_once

__all__ = ["Bundle", "agent_bundle", "bare", "build_bundle", "code_of", "compiled_modules"]

# The agent, and what it imports.
_SHARED = (
    "__init__.py",
    "core/*.py",
    *(f"formats/{name}.py" for name in ("__init__", "ckpt_index", "protobuf", "safetensors_index")),
    *(f"formats/{name}.py" for name in ("shard_sum", "told_step")),
    "agent/*.py",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ROOT = Path(orchestrator.__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Bundle:
    """A file to push, with its content hash."""

    data: bytes
    sha256: str


def build_bundle() -> Bundle:
    """The zip of the agent and of what it imports, made anew."""
    root = _ROOT / "orchestrator"
    sources = sorted(path for pattern in _SHARED for path in root.glob(pattern))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sources:
            # A fixed time and mode: the hash must depend on the sources alone.
            entry = zipfile.ZipInfo(f"orchestrator/{path.relative_to(root).as_posix()}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, bare(path.read_bytes()))
    data = buffer.getvalue()
    return Bundle(data, hashlib.sha256(data).hexdigest())


_QUOTES = b'"""'


@functools.lru_cache(maxsize=512)  # of each module it is asked twice: for the zip, and to compile it
def bare(source: bytes) -> bytes:
    """A module of the agent without comments and docstrings, which no host reads: a quarter of the zip.

    Its lines keep their numbers. For how it is written here: a text in three quotes at the beginning of a
    line is a docstring, and none has such quotes in it.
    """
    lines, in_text, in_docstring = [], False, False
    for line in source.split(b"\n"):
        has_quotes = _QUOTES in line and line.count(_QUOTES) % 2 == 1
        if in_text:
            in_text = not has_quotes
            lines.append(b"" if in_docstring else line)
            continue
        begin = line.lstrip(b" ")
        in_text, in_docstring = has_quotes, begin.startswith(_QUOTES)
        if in_docstring:
            line = line[: len(line) - len(begin)] + b'""'
        lines.append(b"" if begin.startswith(b"#") else line)
    return b"\n".join(lines)


@made_once
def agent_bundle() -> Bundle:
    """The zip, one for all hosts: to make it takes longer than all else that a launch costs for ten."""
    return build_bundle()


# What no launch imports, no failure of a worker and no attempt that follows one, need not be compiled.
_RARE = {"ascend_tools", "disk_space", "host_answers", "plogs", "shard_ranges"}
_RARE |= {"iteration_answers", "iteration_folders", "steps_in_files"}
_RARE |= {"spare_holder", "spare_locks", "spare_records", "verbs_spare", "warm_process"}
_RARE |= {"chat_relay", "verbs_chaos", "verbs_disk", "verbs_logs", "verbs_shards", "verbs_stacks"}
_RARE |= {"last_save", "python_program", "python_stacks", "saved_steps"}
_RARE |= {"bounded_work", "found_evidence", "kernel_log", "line_times", "log_excerpts", "verbs_evidence"}
_RARE |= {"copier", "copier_process", "copy_keeper", "copy_network", "copy_owner", "copy_store"}
_RARE |= {"log_metrics", "mindformers_lines", "logged_saves"}
_RARE |= {"copy_stream", "copy_tls", "verbs_copies"}
_RARE |= {
    f"container_{name}" for name in ("command", "init", "keeper", "probe", "remains", "runtime", "worker")
}


def compiled_modules(version: str) -> bytes:
    """The agent's modules as a host's Python would compile them, if it is of our version; what BOOT reads.

    To compile them is a tenth of all that the first launch costs a host, so it is done once for all of them.
    """
    data = _compile_all() if version == MAGIC_NUMBER.hex() else b""
    return b"%d %s\n%b" % (len(data), hashlib.sha256(data).hexdigest().encode(), data)


@made_once
def _compile_all() -> bytes:
    found = {}
    with zipfile.ZipFile(io.BytesIO(agent_bundle().data)) as archive:
        for where in map(PurePosixPath, archive.namelist()):
            is_meant = where.parent.name in ("core", "agent") and where.stem not in _RARE
            if is_meant and not where.stem.startswith("__"):
                name = ".".join(where.with_suffix("").parts)
                found[name] = marshal.dumps(code_of(name, where, archive.read(str(where))))
    bare.cache_clear()
    return zlib.compress(marshal.dumps(found), 6)


def code_of(name: str, where: PurePosixPath, source: bytes, root: Path = _ROOT) -> CodeType:
    """The code of a module of the zip. Python has compiled most of them before, when they were imported here.

    Of the zip, not of the files: they may be those of another version by now.
    """
    path = root / where
    if not sys.flags.optimize:  # that leaves out what hosts are to have
        try:
            code = SourceFileLoader(name, str(path)).get_code(name)
            if code is not None and bare(path.read_bytes()) == source:
                return lean_code(code, str(where))
        except (OSError, SyntaxError, ValueError, ImportError):
            pass
    return lean_code(compile(source, str(where), "exec", dont_inherit=True, optimize=0), str(where))
