"""A real sshd of our own for tests and benches: own port, own keys, nothing of the machine's is touched.

It listens on 0.0.0.0, so that every address of 127.0.0.0/8 is a host of its own to a client.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["Sshd", "make_key", "why_no_sshd"]

_CONFIG = """\
Port {port}
ListenAddress 0.0.0.0
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PrintMotd no
"""
# What the user's shell does as it starts is no part of what is tested, and may take longer than all the rest.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = 'SetEnv "HOME={home}" "PATH={path}"'
# Of two lines sshd takes the first, so this one is left out where there is another.
_ROOMY = "MaxStartups 2000:30:4000"


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")


def why_no_sshd() -> str:
    """Why no sshd can be started here; empty if it can."""
    for program in ("sshd", "ssh-keygen"):
        if _find(program) is None:
            return f"{program} is not installed (Debian: apt-get install openssh-server)"
    return ""


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair at `path` and `path`.pub."""
    argv = [str(_find("ssh-keygen")), "-q", "-t", kind, "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


class Sshd:
    """A running sshd; `key_path` is a private key that it accepts for `user`, who is the one running this.

    `config` are further lines of sshd_config; `port` is chosen, unless one is given to come back on. `prefix`
    is what to run it under (`ip netns exec NAME`), `address` one of its own where 127.0.0.1 is not. A login's
    home is `home`, not that of the user: his shell starts bare.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: Sequence[str] = (),
        port: int | None = None,
        prefix: Sequence[str] = (),
        address: str = "127.0.0.1",
    ) -> None:
        self.folder = folder
        self._prefix = prefix
        self._address = address
        self.user = getpass.getuser()
        self.key_path = folder / "user_key"
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", "user_key"):
            if not (folder / name).exists():
                make_key(folder / name)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        if os.geteuid() == 0:  # root's sshd insists on its empty folder
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.port = port or _free_port()
        self._config = tuple(config)
        self._process = self._start(config)

    @property
    def host_key(self) -> str:
        """Type and base64 of the host's public key, as known_hosts wants them."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    def known_hosts(self, addresses: Iterable[str], name: str = "known_hosts") -> Path:
        """A known_hosts file with this server's key for every address."""
        path = self.folder / name
        path.write_text("".join(f"[{address}]:{self.port} {self.host_key}\n" for address in addresses))
        return path

    def connections(self) -> list[int]:
        """The pids of the processes that each serve one connection."""
        return _children(self._process.pid)

    def kill_connections(self, but: Iterable[int] = ()) -> None:
        """SIGKILL for what serves each connection; a user's session is a child of its privileged monitor."""
        _kill_connections(set(self.connections()) - set(but))

    def vanish(self) -> None:
        """End the listening process, so that nobody comes back, and then every connection."""
        served = self.connections()
        self.stop()
        _kill_connections(served)

    def stop(self) -> None:
        """End the listening process; connections live on, as they do with any sshd."""
        self._process.terminate()
        self._process.wait()

    def start_again(self) -> None:
        """Listen as before, after `stop`."""
        self._process = self._start(self._config)

    def __enter__(self) -> Sshd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, config: Sequence[str]) -> subprocess.Popen[bytes]:
        file = self.folder / "sshd_config"
        lines = list(config)
        if not any(line.startswith("MaxStartups") for line in lines):
            lines.insert(0, _ROOMY)
        python = Path(sys.executable).resolve().parent
        lines.insert(0, _ENVIRONMENT.format(home=self.home, path=f"{python}:{_PATH}"))
        file.write_text(_CONFIG.format(port=self.port, folder=self.folder) + "\n".join(lines) + "\n")
        log = self.folder / "sshd.log"
        # -D keeps it our child; sshd wants its absolute path, because it starts itself again per connection.
        argv = [*self._prefix, str(_find("sshd")), "-D", "-f", str(file), "-E", str(log)]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 10
        while not _answers(self._address, self.port):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise RuntimeError(f"sshd does not start: {log.read_text()[-500:] if log.exists() else ''}")
            time.sleep(0.01)
        return process


def _kill_connections(pids: Iterable[int]) -> None:
    for pid in pids:
        sessions = [each for each in _children(pid) if _command(each).startswith("sshd")]
        for each in (*sessions, pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except FileNotFoundError:
        return ""


def _free_port() -> int:
    """A port below those that Linux gives to whoever connects, which might be taken before sshd is there."""
    while True:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port


def _answers(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0
