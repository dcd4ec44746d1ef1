"""A container runtime for tests: Debian's podman, with an image made of programs of this machine.

No registry is asked. Where no container can be made here, `why_not` says why.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.agent.container_keeper import Place
from orchestrator.agent.container_remains import known_processes
from orchestrator.agent.processes import identify
from orchestrator.core.container_records import ContainerSpec, Mount
from orchestrator.core.ends import label_of
from orchestrator.core.records import Manifest, ProcessId
from orchestrator.testing.agent_host import AgentHost
from orchestrator.testing.waiting import eventually

__all__ = ["IMAGE", "MOUNT", "PYTHON", "ContainerHost", "containers", "podman", "runtime_ready", "why_not"]

IMAGE = "localhost/orchestrate-test:1"
_PROGRAMS = (
    "bash",
    "sh",
    "sleep",
    "cat",
    "touch",
    "rm",
    "mv",
    "mkdir",
    "mkfifo",
    "setsid",
    "seq",
    "env",
    "ls",
)
# The interpreter is the machine's own, seen in the container at the same place.
PYTHON = os.path.realpath(sys.executable)
_HOME = sys.base_prefix
MOUNT = f"{_HOME}:{_HOME}:ro"
# A test machine may allow less than podman asks for by itself, and run only one of the two runtimes.
_CONF = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
[engine]
runtime = "{runtime}"
"""


def podman(*words: str, timeout: float = 60.0) -> str:
    """What podman says. Raises CalledProcessError, TimeoutExpired."""
    done = subprocess.run(
        ["podman", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def containers(run_id: str) -> list[str]:
    """The ids of the containers of a run, whatever state they are in."""
    return podman("ps", "--all", "--quiet", "--no-trunc", f"--filter=label=orchestrate.run={run_id}").split()


def why_not() -> str:
    """Why no container can be made on this machine; "" where one can."""
    return _tried()[1]


@contextlib.contextmanager
def runtime_ready() -> Iterator[None]:
    """The configuration with which podman runs here, for this process and all that it starts."""
    runtime, trouble = _tried()
    assert not trouble
    with _configured(runtime):
        yield


@functools.cache
def _tried() -> tuple[str, str]:
    """The program by which podman can run a container here, or why none can."""
    if shutil.which("podman") is None:
        return "", "podman is not installed (as root: apt-get install podman runc)"
    if os.getuid():
        return "", "podman is tried as root alone"
    problems = []
    for runtime in filter(shutil.which, ("runc", "crun")):
        with _configured(runtime):
            try:
                _make_image()
                podman(
                    "run",
                    "--rm",
                    "--pull=never",
                    "--network=host",
                    "--ipc=host",
                    IMAGE,
                    "/bin/sh",
                    "-c",
                    "true",
                )
                return runtime, ""
            except subprocess.CalledProcessError as error:
                problems.append((error.stderr.strip().splitlines() or ["?"])[-1])
            except subprocess.TimeoutExpired:
                problems.append(f"{runtime} does not answer")
    return "", "podman runs no container here: " + "; ".join(problems or ["neither crun nor runc is there"])


@contextlib.contextmanager
def _configured(runtime: str) -> Iterator[None]:
    before = os.environ.get("CONTAINERS_CONF")
    os.environ["CONTAINERS_CONF"] = str(_conf(runtime))
    try:
        yield
    finally:
        os.environ.pop("CONTAINERS_CONF", None)
        if before is not None:
            os.environ["CONTAINERS_CONF"] = before


@functools.cache
def _conf(runtime: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix="orchestrate-podman-")) / "containers.conf"
    path.write_text(_CONF.format(runtime=runtime, files=4096, processes=4096))
    return path


def _make_image() -> None:
    """A root of a shell and a few programs, with the libraries that they and Python name."""
    with contextlib.suppress(subprocess.CalledProcessError):
        podman("image", "inspect", IMAGE)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("tmp", "proc", "sys", "dev", "etc", "run", "var", "root", "usr/bin"):
            (root / name).mkdir(parents=True)
        for name in ("bin", "lib", "lib64", "sbin"):
            (root / "usr" / name).mkdir(exist_ok=True)
            (root / name).symlink_to(f"usr/{name}")
        (root / "tmp").chmod(0o1777)
        programs = [f"/usr/bin/{name}" for name in _PROGRAMS if os.path.exists(f"/usr/bin/{name}")]
        extensions = Path(sysconfig.get_path("stdlib")).glob("lib-dynload/*.so")
        for program in [*programs, PYTHON, *map(str, extensions)]:
            if program in programs:
                _copy(program, root)
            told = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
            for library in re.findall(r"(/\S+) \(0x", told):
                if not library.startswith(_HOME):
                    _copy("/usr" + library if library.startswith("/lib") else library, root)
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(
                ["podman", "import", "--quiet", "-", IMAGE],
                stdin=tar.stdout,
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )


def _copy(path: str, root: Path) -> None:
    target = root / path.lstrip("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(os.path.realpath(path), target)


class ContainerHost(AgentHost):
    """A host whose workers run in containers."""

    def __init__(self, workdir: Path, *, seen: Sequence[Path] = (), **changes: Any) -> None:
        super().__init__(workdir)
        mounts = [Mount(str(path), str(path), True) for path in (_HOME, *seen)]
        given = {"image": IMAGE, "runtime": "podman", "python": PYTHON, **changes}
        self.container = ContainerSpec(mounts=tuple(mounts), **given)

    def manifest(self, *commands: Sequence[str], **changes: Any) -> Manifest:
        return super().manifest(*commands, **{"container": self.container, **changes})

    def wait_over(self, run_id: str = "run-1", timeout: float = 30.0) -> Any:
        return super().wait_over(run_id, max(timeout, 30.0))

    def escaped(self, name: str = "escaped", run_id: str = "run-1") -> ProcessId:
        """By the pid that a process has in its container; on the host it has another one.

        `up_0` and the like are of that rank, any other name of whichever has such a process.
        """
        inner, run = self.wait_file(name, run_id), self.run_dir(run_id)
        rank = re.fullmatch(r"up_(-?\d+)", name)
        note = Place(run.attempt.root, label_of(int(rank[1]))) if rank else None
        namespace = ""
        if note is not None:
            known = eventually(lambda: known_processes(note, run.runs).get("init"), what="its container")
            namespace = os.readlink(f"/proc/{known.pid}/ns/pid")
        pid = eventually(lambda: _outside(inner, run.root, namespace), what=f"process {inner} of a container")
        process = identify(int(pid))
        assert process is not None
        return process


def _outside(inner: str, home: Path, namespace: str) -> str:
    """The pid on the host of a process that works in `home` and has this one in its container."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if not entry.name.isdigit() or Path(os.readlink(entry / "cwd")) != home:
                continue
            if namespace and os.readlink(entry / "ns/pid") != namespace:
                continue
            found = re.search(r"^NSpid:((?:\t\d+)+)$", (entry / "status").read_text(), re.MULTILINE)
            if found and len(pids := found[1].split()) > 1 and pids[-1] == inner:
                return entry.name
    return ""
