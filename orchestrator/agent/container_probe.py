"""What a host can tell of a container image before anything is started: its runtime, its digest, its inside.

It looks; the control node judges. Each call has a time limit, and nothing is pulled.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

from orchestrator.agent.container_command import PROBE_LABEL, account_words, ascend_mounts, mount_words
from orchestrator.agent.container_runtime import Call, call, kept_id, remove, remove_all
from orchestrator.agent.system_facts import Seen, look_program, read_look
from orchestrator.agent.worker_environment import with_env_script
from orchestrator.core.container_records import ContainerSpec, Mount

__all__ = ["Inside", "in_image"]

# All together within what the control node waits for a host.
_CALL, _STARTS, _REMOVES, _SETTLES = 12.0, 5.0, 10.0, 1.0
# As `image inspect` tells it; warnings of the runtime come along with it.
_ID = re.compile(r"\s*(?:sha256:)?([0-9a-f]{64})\s*")
# Environment and program arrive on standard input, so that no value is in a command line.
_STARTER = """
import json, os, sys
told = json.loads(sys.stdin.readline())
env = dict(os.environ)
env.update(told["env"])
paths = [told["env"].get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
env["PYTHONPATH"] = ":".join([path for path in paths if path])
script = told["script"]
if script is not None and not os.path.exists(os.path.expanduser(script)):
    print()
    print(json.dumps({"no_script": True, "version": sys.version.split()[0]}))
    sys.exit(0)
print(json.dumps({"version": sys.version.split()[0]}))
sys.stdout.flush()
os.execvpe(told["argv"][0], told["argv"], env)
"""


class Inside(NamedTuple):
    """Plain facts as JSON for the control node, and what workers will see in a container."""

    told: Dict[str, Any]
    seen: Seen
    has_script: bool = True


def in_image(
    spec: ContainerSpec,
    packages: Sequence[str],
    env_script: Optional[str],
    *,
    modules: Sequence[str] = (),
    env: Optional[Mapping[str, str]] = None,
    patience: float = 20.0,
) -> Inside:
    """As `system_facts.in_workers_environment`, in a container that is gone afterwards."""
    nothing = Seen(dict.fromkeys(packages), dict.fromkeys(modules), {})
    told: Dict[str, Any] = {"runtime": spec.runtime, "image": spec.image}
    version = call([spec.runtime, "version"], _CALL)
    if version.code != 0:
        told["runtime_trouble"] = version.why
        return Inside(told, nothing._replace(trouble="is not known, without a runtime"))
    digest = call([spec.runtime, "image", "inspect", "--format", "{{.Id}}", spec.image], _CALL)
    if digest.code != 0:
        told["image_trouble"] = digest.why
        return Inside(told, nothing._replace(trouble="is not known, without the image"))
    found = [line for line in map(_ID.fullmatch, digest.output.split("\n")) if line is not None]
    if not found:
        told["runtime_trouble"] = f"tells no id of {spec.image}: {digest.why}"
        return Inside(told, nothing._replace(trouble="is not known, without the image"))
    told["digest"] = found[-1][1]
    mounts = [mount for mount in spec.mounts if os.path.exists(mount.source)]
    told["missing_mounts"] = [mount.source for mount in spec.mounts if mount not in mounts]
    argv = [spec.python, "-c", look_program(), json.dumps({"packages": [*packages], "modules": [*modules]})]
    wanted = {
        "argv": argv if env_script is None else with_env_script(env_script, argv),
        "env": dict(env or {}),
        "script": env_script,
    }
    looked = _looked(spec, mounts, patience + _STARTS, json.dumps(wanted).encode() + b"\n")
    if looked.code != 0:
        told["inside_trouble"] = looked.why
        return Inside(told, nothing._replace(trouble=f"ends with exit code {looked.code}"))
    lines = [line for line in looked.output.splitlines() if line.startswith("{")]
    try:
        first = json.loads(lines[0])
        told["python"] = str(first["version"])
        if len(lines) == 1 and "no_script" in first:
            return Inside(told, nothing, has_script=False)
        return Inside(told, read_look(lines[-1]))
    except (ValueError, KeyError, TypeError, IndexError):
        told["inside_trouble"] = "its Python gives no answer"
        return Inside(told, nothing._replace(trouble="gives no answer"))


def _looked(spec: ContainerSpec, mounts: Sequence[Mount], timeout: float, stdin: bytes) -> Call:
    """What is said in a container, which is gone afterwards, however its client has ended."""
    with tempfile.TemporaryDirectory(prefix="orchestrate-probe-") as folder:
        cid_file = Path(folder) / "cid"
        looked = Call(None, "")
        try:
            looked = call(_command(spec, mounts, cid_file), timeout, stdin)
        finally:
            if looked.code is None or looked.code < 0:
                _remove(spec.runtime, kept_id(cid_file), Path(folder).name)
        return looked


def _remove(runtime: str, container: Optional[str], token: str) -> None:
    """Of a client that was killed; by its label where the client had not yet written down an id."""
    ends = time.monotonic() + _REMOVES
    if container is None:
        remove_all(runtime, {PROBE_LABEL: token}, _REMOVES, ends)
        time.sleep(_SETTLES)  # a daemon may still be making what its client has asked for
        remove_all(runtime, {PROBE_LABEL: token}, _REMOVES, ends)
        return
    call([runtime, "kill", container], _REMOVES)  # podman's `rm` is gentle for 10 s first
    remove(runtime, container, ends - time.monotonic())


def _command(spec: ContainerSpec, mounts: Sequence[Mount], cid_file: Path) -> List[str]:
    """A short life, without devices: nobody's work is disturbed."""
    words = [spec.runtime, "run", "--rm", "--pull=never", "--interactive", "--network=host", "--ipc=host"]
    words += [f"--cidfile={cid_file}", f"--label={PROBE_LABEL}={cid_file.parent.name}"]
    words += [*account_words(spec.runtime), f"--entrypoint={spec.python}"]
    driver = ascend_mounts(spec.hccn_conf)[0] if spec.ascend else []
    known = {mount.target for mount in mounts}
    words += mount_words([*mounts, *(mount for mount in driver if mount.target not in known)])
    return [*words, *spec.options, spec.image, "-c", _STARTER]
