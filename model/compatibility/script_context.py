"""The context of a script: its device, its rank among others, and the small functions that MindFormers has.

Of MindFormers 1.0.2, `core/context`, `trainer/utils.py` and `tools/utils.py`: what its page for Bloom uses.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.communication as comm

from model.config.settings import Worker
from model.devices.device_choice import use_device
from model.devices.device_name import CPU, DeviceName, npus_left_alone
from model.errors import ModelError
from model.parallel.distributed import set_context

__all__ = [
    "ContextConfig",
    "ParallelContextConfig",
    "adapt_mindspore",
    "device_here",
    "get_last_checkpoint",
    "get_real_rank",
    "init_context",
    "joined_world",
    "str2bool",
]


logger = logging.getLogger(__name__)


@dataclass
class ContextConfig:
    """MindSpore's context; what is not here has no effect."""

    mode: int | str = 0
    device_target: str = "Ascend"
    device_id: int = 0
    max_device_memory: str | None = None
    save_graphs: bool = False
    save_graphs_path: str = "."
    max_call_depth: int = 10_000


@dataclass
class ParallelContextConfig:
    """MindSpore's own cutting of graphs, which this network does not need: it is cut when it is made."""

    parallel_mode: int | str = "STAND_ALONE"
    device_num: int = 1
    gradients_mean: bool = False
    full_batch: bool = True
    strategy_ckpt_save_file: str = ""
    enable_parallel_optimizer: bool = False


def init_context(
    use_parallel: bool = False,
    context_config: ContextConfig | Mapping[str, Any] | None = None,
    parallel_config: ParallelContextConfig | Mapping[str, Any] | None = None,
    **more: Any,
) -> tuple[int, int]:
    """Choose the device and, with `use_parallel`, join the ranks that RANK_ID and RANK_SIZE tell of.

    Gives the own rank and how many there are. Where MindSpore has no Ascend and the machine no NPU, the CPU
    takes its place, with a line on stderr. Raises ModelError.
    """
    said = asdict(context_config) if _is_data(context_config) else dict(context_config or {})  # type: ignore[arg-type]
    worker = Worker.from_environment(os.environ)
    if use_parallel and worker.is_scheduler:
        ms.set_context(mode=ms.GRAPH_MODE)
        comm.init()  # brings the workers together, and returns when the last of them is gone
        raise SystemExit(0)
    device_id = int(os.environ.get("DEVICE_ID") or said.get("device_id") or 0)
    device = use_device(device_here(str(said.get("device_target", "Ascend")), device_id), "device_target")
    set_context(device, "O0")
    if device.target == "Ascend" and said.get("max_device_memory"):
        ms.runtime.set_memory(max_size=said["max_device_memory"])
    _lay_out_nothing()
    if not use_parallel:
        return worker.rank, 1
    if worker.world_size > 1:
        comm.init()
    return worker.rank, worker.world_size


def _is_data(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def device_here(target: str, index: int = 0) -> DeviceName:
    """The device that a script asks for, or the CPU where there is none of its kind; that is said once."""
    if _instead is not None:
        if (_instead.target, _instead.index) != (target, index):
            _say_once(f"the script asks for {target}: --device has it on {_instead}")
        return _instead
    if target.lower() == "cpu":
        return CPU
    if target.lower() != "ascend":
        raise ModelError(f"is {target!r}", where="device_target", remedy="there are Ascend and CPU")
    if npus_left_alone() is None:
        _say_once(f"the script asks for {target}, and this machine has no NPU: the CPU computes")
        return CPU
    return DeviceName("Ascend", index)


_said: set[str] = set()
_instead: DeviceName | None = None  # what a person has chosen in place of what the script says


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        logger.warning("note: %s", text)


def joined_world() -> tuple[int, int]:
    """The own rank and how many have joined; (0, 1) for a process that has joined nobody."""
    if not comm.GlobalComm.INITED:
        return 0, 1
    return int(comm.get_rank()), int(comm.get_group_size())


def get_real_rank() -> int:
    """The own rank: of those that have joined, else what RANK_ID says."""
    rank, size = joined_world()
    return rank if size > 1 else int(os.environ.get("RANK_ID") or 0)


def str2bool(text: str | bool) -> bool:
    """What an option of a script says; ValueError for a word that is neither, which argparse tells."""
    word = str(text).strip().lower()
    if word not in ("true", "false", "1", "0"):
        raise ValueError(f"expected true or false, got {text!r}")
    return word in ("true", "1")


def adapt_mindspore(device: DeviceName | None) -> None:
    """Let a script use MindSpore's `set_context`, `Model`, `load_param_into_net` as MindFormers' page does.

    A device that it names becomes `device`, or the CPU where there is no NPU. A network of ours is cut when
    it is made: `infer_predict_layout` has nothing to do, and its weights go in by `Model`, too.
    """
    real_set, real_load = ms.set_context, ms.load_param_into_net
    global _instead
    _instead = device

    def set_context(**given: Any) -> None:
        if "device_target" in given:
            named = device_here(str(given["device_target"]), int(given.get("device_id", 0)))
            given.update(device_target=named.target)
            given.pop("device_id", None)
            if named.target == "Ascend":
                given["device_id"] = named.index
        elif npus_left_alone() is None:
            given.pop("device_id", None)
        if given:
            real_set(**given)

    def load_param_into_net(net: Any, *given: Any, **more: Any) -> Any:
        return real_load(net._network if isinstance(net, ms.train.Model) else net, *given, **more)

    ms.set_context = ms.context.set_context = set_context
    ms.load_param_into_net = load_param_into_net
    _lay_out_nothing()


def _lay_out_nothing() -> None:
    """Networks of ours are cut when they are made: MindSpore's Model has no layout to infer for them."""
    from model.compatibility.auto_model import PretrainedModel  # late: that module needs this one

    real = ms.train.Model.infer_predict_layout

    def infer_predict_layout(self: Any, *data: Any, **more: Any) -> Any:
        return {} if isinstance(self._network, PretrainedModel) else real(self, *data, **more)

    if real.__name__ != infer_predict_layout.__name__ or real.__module__ != __name__:
        ms.train.Model.infer_predict_layout = infer_predict_layout


def get_last_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint file in a rank's folder; None where there is none. ModelError: no folder."""
    home = Path(folder)
    if not home.is_dir():
        raise ModelError("there is no such folder", where=str(folder), remedy="expected <folder>/rank_<r>")
    found = [path for path in home.iterdir() if path.suffix == ".ckpt" and path.is_file()]
    return str(max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))) if found else None
