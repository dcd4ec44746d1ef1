"""Many Ascend hosts behind one sshd: each address is a host with its own tools, hccn.conf, CANN and name.

A rank table may not hold loopback addresses. So the inventory has others, which the ssh config maps. `names`
gives each host a name of its own, where we are root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.testing.sshd import Sshd
from orchestrator.testing.standin_facts import HostFacts, Kind, host_facts
from orchestrator.testing.standin_host import FakeHost

__all__ = ["FakeCluster"]

# A host name of its own needs a namespace, and that needs root.
_LOGIN = """\
#!/bin/sh
echo {name} > /proc/sys/kernel/hostname
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"""


def _can_name() -> bool:
    """Whether a process may have a host name of its own: root may, but not in every container."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    argv = ["unshare", "--uts", "sh", "-c", "echo npu > /proc/sys/kernel/hostname"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


class FakeCluster:
    """The hosts npu001, npu002, ... at 10.100.0.1, 10.100.0.2, ..., which are 127.0.1.1, 127.0.1.2, ..."""

    def __init__(
        self,
        folder: Path,
        count: int,
        kind: Kind = "910B",
        devices: int | None = None,
        *,
        names: bool = True,
    ) -> None:
        self.folder = folder
        self._names = names and _can_name()
        facts = [host_facts(index, kind, devices) for index in range(count)]
        self.hosts = {
            each.name: FakeHost(folder / "machines" / each.name, each, folder / "network") for each in facts
        }
        self.addresses = {name: f"127.0.1.{index}" for index, name in enumerate(self.hosts, 1)}
        self.sshd = Sshd(folder / "sshd", config=list(self._sshd_config()))
        config = [
            f"Host 10.100.0.{index}\n  HostName {a}\n" for index, a in enumerate(self.addresses.values(), 1)
        ]
        (folder / "ssh_config").write_text("".join(config))
        self.known_hosts = self.sshd.known_hosts(self.addresses.values())

    def _sshd_config(self) -> Iterator[str]:
        for name, host in self.hosts.items():
            yield f"Match LocalAddress {self.addresses[name]}"
            home = host.folder / "home"
            home.mkdir(exist_ok=True)
            yield f'    SetEnv "HOME={home}" "PATH={host.bin}:/usr/local/bin:/usr/bin:/bin"'
            if self._names:
                login = host.folder / "login"
                login.write_text(_LOGIN.format(name=name))
                login.chmod(0o755)
                yield f"    ForceCommand unshare --uts {login}"

    def inventory(self, *, ips: bool = False, **defaults: Any) -> dict[str, Any]:
        """As a person would write it; with `ips` the devices' addresses, too."""
        return {
            "ssh": {"config_file": str(self.folder / "ssh_config"), "known_hosts": [str(self.known_hosts)]},
            "defaults": {
                "port": self.sshd.port,
                "user": self.sshd.user,
                "key": str(self.sshd.key_path),
                "python": sys.executable,
                "workdir": str(self.folder / "hosts" / "{name}"),
                "hccn_conf": str(self.folder / "machines" / "{name}" / "hccn.conf"),
                **defaults,
            },
            "hosts": [self._entry(name, host, ips) for name, host in self.hosts.items()],
        }

    def _entry(self, name: str, host: FakeHost, ips: bool) -> dict[str, Any]:
        devices = [{"id": device.id, **({"ip": device.ip} if ips else {})} for device in host.facts.devices]
        address = self.addresses[name].replace("127.0.1.", "10.100.0.")
        entry = {"name": name, "address": address, "devices": devices}
        return {**entry, "env_script": str(host.env_script)}

    def become(self, name: str, facts: HostFacts) -> None:
        """Change one host."""
        self.hosts[name].become(facts)

    def names(self) -> Sequence[str]:
        return list(self.hosts)

    def close(self) -> None:
        self.sshd.kill_connections()
        self.sshd.stop()
