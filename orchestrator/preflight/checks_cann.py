"""Checks of what CANN gives the workers: its Python side, its version, the devices that it shows them.

The criteria are MindSpore's own, mindspore/run_check/_check_version.py and communication/management.py of the
hosts' wheels: what it refuses is a failure, what it warns of a warning.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.ascend.discovery import info_of
from orchestrator.ascend.visible_devices import VISIBLE_DEVICES, read_visible
from orchestrator.config.yaml_messages import plain, show
from orchestrator.preflight.cann_facts import Cann, cann_of
from orchestrator.preflight.host_facts import Facts, HostFacts, Needs, environment_of, text_of
from orchestrator.preflight.report import Level, Result, agree

__all__ = ["cann_agrees", "cann_fits_mindspore", "cann_gives_python", "devices_keep_their_numbers"]

_TBE = "opp/built-in/op_impl/ai_core/tbe"
_NO_NPU = "no Ascend tools there"


def cann_agrees(needs: Needs, facts: Facts) -> Iterator[Result]:
    remedy = "install it, or let `env_script:` name its set_env.sh"
    unknown = Result("", Level.WARN, "no CANN toolkit is found", remedy)
    in_images = [host for host, fact in facts.items() if fact.probe.image is not None]
    yield from (Result(host, Level.SKIP, "it is in the image") for host in in_images)
    versions = {host: text_of(fact.probe.cann) for host, fact in facts.items() if host not in in_images}
    # EI0008 of HCCL
    yield from agree("CANN", versions, "install the same version on all hosts", unknown)


def cann_fits_mindspore(needs: Needs, facts: Facts) -> Iterator[Result]:
    """The version of CANN's compiler is one that the host's own MindSpore names."""
    for host, fact in facts.items():
        cann = cann_of(fact)
        if cann is None:
            yield Result(host, Level.SKIP, _NO_NPU)
        elif not cann.versions:
            yield Result(host, Level.SKIP, "no MindSpore there that names the versions it takes")
        elif cann.compiler is None:
            yield Result(host, Level.SKIP, "no compiler/version.info under ASCEND_HOME_PATH")
        else:
            yield _fit(host, fact, cann, cann.compiler)


def _fit(host: str, fact: HostFacts, cann: Cann, compiler: str) -> Result:
    # As MindSpore compares them.
    version = ".".join(compiler.split(".")[:2])
    if version in cann.versions:
        return Result(host, Level.OK, f"{version} is one that MindSpore takes")
    there = f"{version} ({cann.release})" if cann.release else version
    what = f"CANN's compiler is {there}, but {_mindspore(fact)} takes {', '.join(cann.versions)}"
    return Result(host, Level.WARN, what, "install one of these CANN versions, or the MindSpore that fits")


def _mindspore(fact: HostFacts) -> str:
    version = fact.packages.get("mindspore")
    return f"MindSpore {version}" if version else "the MindSpore there"


def cann_gives_python(needs: Needs, facts: Facts) -> Iterator[Result]:
    for host, fact in facts.items():
        cann = cann_of(fact)
        if cann is None:
            yield Result(host, Level.SKIP, _NO_NPU)
            continue
        refused = list(_refused(needs, fact, cann))
        warned = list(_warned(needs, cann))
        if not refused and not warned:
            yield Result(host, Level.OK, _found(needs, host, cann))
            continue
        level = Level.FAIL if refused and needs.bundled else Level.WARN
        yield Result(host, level, "; ".join([*refused, *warned]), _remedy(needs, host, cann))


def _refused(needs: Needs, fact: HostFacts, cann: Cann) -> Iterator[str]:
    """What MindSpore ends of: `init` without hccl, kernels without tbe; before 2.8 more."""
    is_parallel = not needs.has_job or sum(map(len, needs.devices.values())) > 1
    missing = [name for name in cann.missing if name == "tbe" or (name == "hccl" and is_parallel)]
    if missing:
        yield f"the workers' Python finds no {' and no '.join(missing)}"
    if cann.wants_opp_kernel and "ASCEND_OPP_PATH" not in cann.variables:
        yield f"ASCEND_OPP_PATH is not set, without which {_mindspore(fact)} does not start"
    elif cann.wants_opp_kernel and not cann.has_opp_kernel:
        yield f"CANN has no opp_kernel folder, without which {_mindspore(fact)} does not start"


def _warned(needs: Needs, cann: Cann) -> Iterator[str]:
    """What MindSpore warns of, in a log that few see."""
    if "te" in cann.missing:
        yield "there is no te"
    if _TBE not in cann.variables.get("PYTHONPATH", ""):
        yield f"PYTHONPATH is without {_TBE}"
    if "/lib64" not in cann.variables.get("LD_LIBRARY_PATH", ""):
        yield "LD_LIBRARY_PATH is without CANN's lib64"
    if "/opp" not in cann.variables.get("ASCEND_OPP_PATH", "") and not cann.wants_opp_kernel:
        yield "ASCEND_OPP_PATH names no opp folder"


def _remedy(needs: Needs, host: str, cann: Cann) -> str:
    script = needs.host(host).env_script
    if cann.set_env is None:
        return "install CANN's toolkit, and let `env_script:` name its set_env.sh"
    if script is None:
        return f"set `env_script: {cann.set_env}`"
    if script == cann.set_env:
        return f"see what {script} does: it may be another package's, or its toolkit is not whole"
    return f"let env_script {plain(script)} source {cann.set_env}"


def _found(needs: Needs, host: str, cann: Cann) -> str:
    """Where it comes from; without a script, by the account's own variables."""
    name = "hccl" if "hccl" in cann.modules else "tbe"
    where = f"{name} in {cann.modules[name].rpartition(f'/{name}/')[0]}"
    if needs.host(host).env_script is not None:
        return where
    return f"{where}; PYTHONPATH is the account's: {plain(cann.variables.get('PYTHONPATH', ''))}"


def devices_keep_their_numbers(needs: Needs, facts: Facts) -> Iterator[Result]:
    """A job's device ids are the host's; CANN numbers anew what ASCEND_RT_VISIBLE_DEVICES shows.

    To translate would be possible, but locks, rank tables and npu-smi go by the host's numbers, and whoever
    set the variable may have meant to keep us off the others: it is told.
    """
    for host, fact in facts.items():
        value = environment_of(needs, fact).get(VISIBLE_DEVICES)
        if cann_of(fact) is None:
            yield Result(host, Level.SKIP, _NO_NPU)
        elif value is None:
            yield Result(host, Level.OK, "all are visible")
        else:
            yield _numbered(needs, host, fact, value)


def _numbered(needs: Needs, host: str, fact: HostFacts, value: str) -> Result:
    info = info_of(fact.tools) if fact.tools else None
    visible = read_visible(value, len(info.chips) if info else None)
    devices = needs.devices.get(host, ())
    moved = tuple(device for device in devices if visible.ids[device : device + 1] != (device,))
    what = f"{VISIBLE_DEVICES} is {show(value)}"
    if visible.trouble:
        what = f"{what} ({plain(visible.trouble)})"
    by_job = needs.env.get(VISIBLE_DEVICES) == value
    remedy = "remove it from " + ("the job's env" if by_job else "the host's env_script or login")
    if moved:
        seen = f"with it CANN shows {len(visible.ids)} devices, numbered from 0: not these"
        return Result(host, Level.FAIL, f"{what}; {seen}", remedy, moved)
    if visible.trouble:
        return Result(host, Level.WARN, what, remedy)
    return Result(host, Level.OK, f"{what}: the numbers stay")
