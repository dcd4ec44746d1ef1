"""The command line by which a runtime makes the container of a worker. Pure but for a look at what is there.

The options are those that docker, podman and nerdctl share:
docs.docker.com/reference/cli/docker/container/run, podman-run(1), containerd/nerdctl
docs/command-reference.md. What an Ascend needs: "Use in Containers" of MindCluster's ToolBox guide and
"Container Startup" of MindIE's (below hiascend.com/document/detail/en:
/mindcluster/730/toolbox/toolboxug/toolboxug_0008.html, /mindie/230/quickstart/mindiesd_quickstart_0003.html):
the devices, the driver, dcmi, npu-smi, and the note
of where they were installed. Without `--privileged` a chip belongs to the first container that uses it
(`npu-smi set -t device-share`, off by default), and a process in one counts its devices from 0, whatever they
are called on the host ("Relationships Between the User Device ID, Logical Device ID, and Physical Device ID"
at aclrtGetPhyDevIdByLogicDevId). So each worker is given its own device, which is number 0 to it.
"""

from __future__ import annotations

import os
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from orchestrator.core.container_records import ContainerSpec, Mount

__all__ = [
    "MANAGERS",
    "PROBE_LABEL",
    "account_words",
    "ascend_mounts",
    "labels_of",
    "mount_words",
    "run_command",
    "wanted_mounts",
]

_RUN, _ATTEMPT, _RANK, _HOST = (f"orchestrate.{name}" for name in ("run", "attempt", "rank", "host"))
PROBE_LABEL = "orchestrate.probe"
# Of every process that uses an NPU, beside the device itself.
MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
_DRIVER = (
    "/usr/local/Ascend/driver",
    "/usr/local/dcmi",
    "/usr/local/bin/npu-smi",
    "/etc/ascend_install.info",
)
_HCCN = "/etc/hccn.conf"


def run_command(
    spec: ContainerSpec,
    *,
    run_dir: str,
    device_id: int,
    labels: Mapping[str, str],
    cid_file: str,
    inner: Sequence[str],
    root: str = "/",
) -> Tuple[List[str], List[str]]:
    """The runtime's argv, and what an Ascend should have and this host has not.

    `inner` are the arguments of the image's Python. `device_id` is that of the host, negative for a process
    without one. `root` is where the host's files are looked for.
    """
    words = [
        spec.runtime,
        "run",
        "--rm",
        "--pull=never",
        f"--cidfile={cid_file}",
        "--network=host",
        "--ipc=host",
        f"--workdir={run_dir}",
        f"--entrypoint={spec.python}",
        *account_words(spec.runtime),
    ]
    words += [f"--label={name}={value}" for name, value in labels.items()]
    mounts = [Mount(run_dir, run_dir), *spec.mounts]
    missing: List[str] = []
    if spec.ascend:
        known = {mount.target for mount in spec.mounts}
        found, missing = ascend_mounts(spec.hccn_conf, root)
        mounts += [mount for mount in found if mount.target not in known]
        missing = [path for path in missing if path not in known]
        own = [f"/dev/davinci{device_id}"] if device_id >= 0 else []
        devices = [*own, *MANAGERS]
        absent = [path for path in devices if not os.path.exists(root + path)]
        missing += absent
        if not spec.is_privileged:
            words += [f"--device={path}" for path in devices if path not in absent]
    words += mount_words(mounts)
    return [*words, *spec.options, spec.image, *inner], missing


def account_words(runtime: str) -> List[str]:
    """Who the processes in the container are: this account, so that files and signals are its own."""
    name, user, group = os.path.basename(runtime), os.getuid(), os.getgid()
    words = []
    if name != "nerdctl":
        words.append("--security-opt=label=disable")  # else SELinux keeps the run's directory from it
    if user and name == "podman":
        return [*words, "--userns=keep-id", f"--user={user}:{group}"]
    if name == "podman":
        words.append("--pids-limit=-1")  # 2048 by default, and threads count
    # Devices are given to a group.
    words += [f"--group-add={each}" for each in sorted({*os.getgroups()} - {group})]
    return [*words, f"--user={user}:{group}"]


def mount_words(mounts: Sequence[Mount]) -> List[str]:
    """Mounts that fail where the source is not there; a comma within a path is quoted as CSV has it."""
    words = []
    for mount in mounts:
        parts = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
        parts += ["readonly"] * mount.read_only
        words.append("--mount=" + ",".join(map(_quoted, parts)))
    return words


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"' if "," in part or '"' in part else part


def ascend_mounts(hccn_conf: str, root: str = "/") -> Tuple[List[Mount], List[str]]:
    """The driver's files that are here, read-only, and those that are not."""
    wanted = wanted_mounts(os.path.expanduser(hccn_conf))
    missing = [mount.source for mount in wanted if not os.path.exists(root + mount.source)]
    return [mount for mount in wanted if mount.source not in missing], missing


def wanted_mounts(hccn_conf: str) -> List[Mount]:
    """What of an Ascend's driver a container is to have; read-only."""
    return [*(Mount(path, path, True) for path in _DRIVER), Mount(hccn_conf, _HCCN, True)]


def labels_of(run_id: str, attempt: str, rank: Optional[int], host: str) -> Dict[str, str]:
    """What the container is found again by; `attempt` is `<number>-<token>`.

    Without a rank it is what all of a host have: hosts may be names of one machine, with one runtime.
    """
    labels = {_RUN: run_id, _ATTEMPT: attempt}
    if rank is not None:
        labels[_RANK] = str(rank)
    return {**labels, _HOST: host}
