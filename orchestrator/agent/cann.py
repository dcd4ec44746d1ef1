"""What CANN gives the workers of this host, and what their MindSpore asks of it.

The files are the host's own, but nobody vouches for them: only regular ones are read, up to a limit.
"""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from orchestrator.core.safe_open import read_safely

__all__ = ["MODULES", "cann_facts", "cann_version", "read_regular"]

# What MindSpore imports of CANN: `from hccl import sys_version` (communication/management.py), without which
# `init` raises, and `te` (run_check/_check_version.py), which is built on `tbe`.
MODULES = ("hccl.sys_version", "te", "tbe")

_CANN_FOLDERS = ("/usr/local/Ascend/ascend-toolkit/latest", "/usr/local/Ascend/cann")
# Where CANN is installed by root and by an account, and what its script is called: from 8.5 on, and before.
_ROOTS = ("/usr/local/Ascend", "~/Ascend")
_SCRIPTS = ("cann/set_env.sh", "ascend-toolkit/set_env.sh", "nnae/set_env.sh")
_LONGEST_FILE = 256 * 1024


def cann_facts(
    environment: Mapping[str, str], modules: Mapping[str, Any], *, roots: Sequence[str] = _ROOTS
) -> Dict[str, Any]:
    """Facts as plain JSON, of the workers' whole `environment` and of the `modules` that they can import.

    `modules` holds the file of each, None where there is none. `compiler` is what `compiler/version.info`
    says of the toolkit that MindSpore will look at.
    """
    opp = environment.get("ASCEND_OPP_PATH")
    return {
        "modules": {name: modules.get(name) for name in MODULES},
        "variables": {
            name: environment.get(name) for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "ASCEND_OPP_PATH")
        },
        "opp_kernel": os.path.exists(opp.replace("opp", "opp_kernel")) if opp else False,
        "set_env": _set_env(environment, roots),
        "asked": _asked_by(modules.get("mindspore")),
        "compiler": _compiler(environment),
    }


def cann_version(environment: Mapping[str, str]) -> Optional[str]:
    """The `version=` of the toolkit that the workers will use; None where there is none."""
    named = [environment.get(name) for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    for folder in filter(None, [*named, *_CANN_FOLDERS]):
        for path in sorted(glob.glob(f"{glob.escape(folder)}/*-linux/ascend_toolkit_install.info")):
            version = _values(path).get("version")
            if version:
                return version
    return None


def read_regular(path: str) -> Optional[str]:
    """The text of a regular file, also behind a link; None where it is something else, absent or too long."""
    try:
        real = Path(os.path.realpath(path))
        return read_safely(real, real.parent, _LONGEST_FILE).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def _values(path: str) -> Dict[str, str]:
    """The `key=value` lines of a file; the first of each key counts."""
    found: Dict[str, str] = {}
    for line in (read_regular(path) or "").splitlines():
        key, _, value = line.strip().partition("=")
        found.setdefault(key, value)
    return found


def _set_env(environment: Mapping[str, str], roots: Sequence[str]) -> Optional[str]:
    """The script that sets CANN's environment, of the toolkit in use before all others."""
    home = environment.get("ASCEND_HOME_PATH")
    named = [f"{home}/set_env.sh", f"{os.path.dirname(home)}/set_env.sh"] if home else []
    usual = [os.path.expanduser(f"{root}/{script}") for root in roots for script in _SCRIPTS]
    return next((path for path in named + usual if os.path.isfile(path)), None)


def _compiler(environment: Mapping[str, str]) -> Optional[Dict[str, Any]]:
    """`version` (the compiler's, which MindSpore compares), `release` (CANN's name) and `path` of the file.

    MindSpore 2.10 looks under ASCEND_HOME_PATH, 2.7 beside ASCEND_OPP_PATH.
    """
    home, opp = environment.get("ASCEND_HOME_PATH"), environment.get("ASCEND_OPP_PATH")
    folders = ([f"{home}/"] if home else []) + ([opp.split("opp")[0]] if opp else [])
    for folder in folders:
        path = f"{folder}compiler/version.info"
        values = _values(path)
        if values.get("Version"):
            return {"version": values["Version"], "release": values.get("version_dir"), "path": path}
    return None


def _asked_by(mindspore: Any) -> Optional[Dict[str, Any]]:
    """What the workers' own MindSpore will accept, from its source: nothing is imported, no table can age.

    `versions` are those of CANN's compiler. `opp_kernel` says that it does not start without that folder,
    nor without ASCEND_OPP_PATH (2.7); later ones only warn.
    """
    if not isinstance(mindspore, str):
        return None
    text = read_regular(os.path.join(os.path.dirname(mindspore), "run_check", "_check_version.py")) or ""
    text = text[text.find("class AscendEnvChecker") :] if "class AscendEnvChecker" in text else ""
    listed = re.search(r"self\.version\s*=\s*\[([^\]]{0,400})\]", text)
    versions: List[str] = re.findall(r"[\"'](\d{1,4}\.\d{1,4})[\"']", listed[1]) if listed else []
    return {"versions": versions, "opp_kernel": "self.check_opp_kernel()" in text}
