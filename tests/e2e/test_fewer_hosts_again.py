"""A run whose host is gone goes on with those that are left, and on all of them once it is back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.testing.local_cluster import Cluster, eventually
from orchestrator.testing.sshd import Sshd, why_no_sshd

pytestmark = [
    pytest.mark.sshd,
    pytest.mark.skipif(bool(why_no_sshd()), reason=f"no sshd: {why_no_sshd()}"),
]

# Each start of the first rank notes how many ranks there are; it fails, or is done, where the test says so.
PROGRAM = """\
import os, pathlib, sys, time
told, count = pathlib.Path(os.environ["TOLD"]), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
if os.environ["RANK"] == "0":
    with open(told / "sizes", "a") as file:
        file.write(os.environ["WORLD_SIZE"] + "\\n")
deadline = time.monotonic() + 900
while time.monotonic() < deadline and not (told / "done").exists():
    if (told / f"fail_{count}").exists():
        sys.exit(3)
    time.sleep(0.1)
"""


def sizes(folder: Path) -> list[int]:
    path = folder / "sizes"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_it_goes_on_with_one_host_and_grows_back(remote: Cluster, servers: list[Sshd]) -> None:
    (remote.folder / "program.py").write_text(PROGRAM)
    job = remote.job(
        ["{python}", "program.py"],
        devices_per_host=1,
        sync=["program.py"],
        env={"TOLD": str(remote.folder)},
        # A host that is back is seen when leases are renewed, at a quarter of this.
        restart={"max": 9, "min_hosts": 1, "lease": 60},
        timeouts={"unreachable": 4, "lost": 10, "grace": 2, "prepare": 60},
    )
    with remote.launching(job, "--detach") as launch:
        assert launch.wait(120) == 0
    eventually(lambda: sizes(remote.folder) == [2], timeout=60, what="the first start")

    servers[1].vanish()
    eventually(lambda: sizes(remote.folder) == [2, 1], timeout=180, what="one host alone")
    found: list[dict[str, Any]] = remote.status()["attempts"]
    assert found[0]["decision"]["choice"] == "fewer", found[0]["decision"]
    eventually(lambda: remote.status()["state"] == "running", timeout=60, what="running")

    servers[1].start_again()
    back = ("held", "ready")
    eventually(lambda: remote.status()["spares"]["node3"]["state"] in back, timeout=300, what="it is back")
    (remote.folder / "fail_1").touch()
    eventually(lambda: len(sizes(remote.folder)) > 2, timeout=180, what="the next start")
    assert sizes(remote.folder) == [2, 1, 2]
    (remote.folder / "done").touch()
    eventually(lambda: remote.status()["state"] == "succeeded", timeout=120, what="the end")
