"""`python -m orchestrator.testing cluster FOLDER`: made-up Ascend servers behind one sshd, to try things on.

`python -m orchestrator.testing host FACTS.yaml FOLDER`: the tools of one; put FOLDER/bin on the PATH.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import yaml

from orchestrator.config.host_ranges import fold
from orchestrator.testing.sshd import why_no_sshd
from orchestrator.testing.standin_cluster import FakeCluster
from orchestrator.testing.standin_facts import HostFacts, Kind
from orchestrator.testing.standin_host import FakeHost

# What a cluster leaves in its folder, and a new one makes anew.
_MADE_ANEW = ("machines", "network", "ssh_config")
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOST_HOSTS = 200  # 127.0.1.1 and so on


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.testing", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    cluster = kinds.add_parser("cluster", help="servers, each at an address of its own, until Ctrl-C")
    cluster.add_argument("folder", type=Path, metavar="FOLDER", help="where all of it is kept")
    cluster.add_argument("--hosts", type=int, default=12, metavar="N", help="default: 12")
    cluster.add_argument("--chip", choices=get_args(Kind), default="910B", help="default: 910B")
    cluster.add_argument("--devices", type=int, metavar="N", help="NPUs of each; default: as the chip has")
    cluster.add_argument(
        "--link-down", metavar="HOST:DEVICE", help="a broken link, for `check` to find, such as npu012:3"
    )
    host = kinds.add_parser("host", help="the tools of one server")
    host.add_argument("facts", type=Path, metavar="FACTS.yaml")
    host.add_argument("folder", type=Path, metavar="FOLDER")
    words = parser.parse_args(argv)
    return _host(words) if words.what == "host" else _cluster(words)


def _host(words: argparse.Namespace) -> int:
    made = FakeHost(words.folder, HostFacts.read(words.facts), words.folder / "network")
    print(f"export PATH={made.bin}:$PATH")
    return 0


def _cluster(words: argparse.Namespace) -> int:
    why = why_no_sshd() or _why_not(words)
    if why:
        print(f"error: {why}", file=sys.stderr)
        return 2
    folder: Path = words.folder.absolute()
    for name in _MADE_ANEW if (folder / "ssh_config").exists() else ():
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    made = FakeCluster(folder, words.hosts, words.chip, words.devices)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(made):
        if words.link_down:
            name, _, device = words.link_down.partition(":")
            made.become(name, made.hosts[name].facts.change(int(device), link="DOWN"))
        inventory = folder / "inventory.yaml"
        inventory.write_text(yaml.safe_dump(made.inventory(), sort_keys=False))
        # From here on, and not before: what it has started must not inherit this.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        _tell(made, inventory)
        signal.sigwait(_ENDING)
    return 0


def _why_not(words: argparse.Namespace) -> str:
    """What is wrong with the options, or with the folder."""
    if not 0 < words.hosts <= _MOST_HOSTS:
        return f"--hosts: from 1 to {_MOST_HOSTS}"
    if words.devices is not None and not 0 < words.devices <= 16:
        return "--devices: from 1 to 16"
    known = {f"npu{number + 1:03d}" for number in range(words.hosts)}
    name, _, device = (words.link_down or "npu001:0").partition(":")
    most = words.devices or (16 if words.chip == "A3" else 8)
    if name not in known or not device.isdecimal() or int(device) >= most:
        return f"--link-down: {words.link_down} is no device of {fold(known)}, such as npu001:0"
    folder: Path = words.folder
    if folder.exists() and not folder.is_dir():
        return f"{folder} is no folder"
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "ssh_config").exists():
        return f"{folder} holds something else; name a new folder"
    return ""


def _tell(made: FakeCluster, inventory: Path) -> None:
    devices = len(next(iter(made.hosts.values())).facts.devices)
    names = fold(made.names())
    print(f"{names}: {devices} NPUs each, made up: their tools answer, nothing computes on them")
    print(f"in another terminal: orchestrate check -i {shlex.quote(str(inventory))}")
    print("Ctrl-C ends them", flush=True)


if __name__ == "__main__":
    sys.exit(main())
