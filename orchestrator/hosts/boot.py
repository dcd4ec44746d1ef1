"""The agent as one zip file, the same bytes for the same sources, so that its hash can name it.

What a host's Python is given on its command line: it takes the agent in, once a version, and starts it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import orchestrator

__all__ = [
    "BOOT",
    "Bundle",
    "agent_bundle",
]

# The agent, and what it imports.
_SHARED = ("__init__.py", "core/*.py", "formats/*.py", "agent/*.py")
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A file to push, with its content hash."""

    data: bytes
    sha256: str


@cache
def agent_bundle() -> Bundle:
    """The zip of the agent and of what it imports."""
    root = Path(orchestrator.__file__).parent
    sources = sorted(path for pattern in _SHARED for path in root.glob(pattern))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sources:
            # A fixed time and mode: the hash must depend on the sources alone.
            entry = zipfile.ZipInfo(f"orchestrator/{path.relative_to(root).as_posix()}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    data = buffer.getvalue()
    return Bundle(data, hashlib.sha256(data).hexdigest())


# Runs under any Python there is, so that an old one can say so. What it needs comes over stdin: the
# command line stays constant. The file is written under its hash and never again.
# zipimport compiles every module at each start, and twice, once only to tell its file name: most of the
# agent's start. So the compiled modules are kept beside the zip, for each version of Python, with a checksum.
BOOT = """
import sys
def say(*words):
    sys.stdout.write(" ".join(("orchestrate-agent",) + words) + "\\n"); sys.stdout.flush()
if sys.version_info < (3, 8):
    say("old", sys.version.split()[0]); sys.exit(0)
import json, os
try:
    # What hashlib is made of, since 3.12 and before: without OpenSSL, which takes longer to load.
    from _sha2 import sha256
except ImportError:
    try:
        from _sha256 import sha256
    except ImportError:
        from hashlib import sha256
stdin = sys.stdin.buffer
ask = json.loads(stdin.readline())
folder = os.path.join(os.path.expanduser(ask["workdir"]), "agent")
path = os.path.join(folder, ask["sha256"] + ".pyz")
try:
    def is_meant(data):
        return sha256(data).hexdigest() == ask["sha256"]
    if not os.path.exists(path) or not is_meant(open(path, "rb").read()):
        os.makedirs(folder, exist_ok=True)
        say("need")
        data = stdin.read(ask["size"])
        if not is_meant(data):
            raise OSError("the agent arrived damaged")
        part = "%s.%d" % (path, os.getpid())
        try:
            with open(part, "wb") as file:
                file.write(data)
            os.replace(part, path)
        except OSError:
            os.path.exists(part) and os.remove(part)
            raise
except OSError as error:
    say("error", json.dumps("%s: %s" % (folder, error.strerror or error))); sys.exit(0)
say("ready")
import marshal, zipimport
from _frozen_importlib_external import MAGIC_NUMBER
cache = "%s.%s" % (path[:-4], MAGIC_NUMBER.hex())
def keep(name, data):
    part = os.path.join(cache, "%s.%d" % (name, os.getpid()))
    try:
        os.makedirs(cache, exist_ok=True)
        with open(part, "wb") as file:
            file.write(sha256(data).digest() + data)
        os.replace(part, os.path.join(cache, name))
    except OSError:
        os.path.exists(part) and os.remove(part)
class Importer(zipimport.zipimporter):
    def get_filename(self, name):
        last = os.path.join(self.archive, self.prefix + name.rpartition(".")[2])
        return os.path.join(last, "__init__.py") if self.is_package(name) else last + ".py"
    def get_code(self, name):
        try:
            with open(os.path.join(cache, name), "rb") as file:
                data = file.read()
            if sha256(data[32:]).digest() == data[:32]:
                return marshal.loads(data[32:])
        except OSError:
            pass
        code = zipimport.zipimporter.get_code(self, name)
        keep(name, marshal.dumps(code))
        return code
sys.path_hooks.insert(0, Importer)
sys.path.insert(0, path)
from orchestrator.agent.serve import main
main(ask["workdir"])
"""
