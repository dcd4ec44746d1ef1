"""MindFormers' own code as the oracle of its log lines: classes cut out of a wheel and run without MindSpore.

What they import is replaced by stand-ins, but for numbers and the log: the epoch and the step of a line, the
text around them and the header of the logger are made by the code of that version. Wheels lie in the folder
that MINDFORMERS_WHEELS names (`pip download --no-deps mindformers==X`); the version that `make test` installs
is there without one.
"""

from __future__ import annotations

import ast
import datetime
import logging
import math
import os
import re
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np

VERSIONS = (
    *("1.0.0", "1.0.1", "1.0.2", "1.1.0", "1.2.0", "1.3.0", "1.3.2"),
    *("1.6.0", "1.7.0", "1.8.0", "1.9.0", "2.0.0", "2.1.0"),
)
LOSSES = (8.287561, 8.125, 7.5)
RECORDED = Path(__file__).parent.parent / "fixtures" / "mindformers_lines.json"
_HOME = Path(__file__).parents[2] / ".venv-mindformers"
FOLDER = os.environ.get("MINDFORMERS_WHEELS")
START = 1_764_155_532.0  # 2025-11-26 11:12:12 UTC
CALLBACK = "mindformers/core/callback/callback.py"
TRAINER = "mindformers/trainer/base_trainer.py"
_LOSS = "mindformers/pynative/callback/loss_callback.py"
_CHECKPOINT = "mindformers/checkpoint/checkpoint.py"
_LOGGER = "mindformers/tools/logger.py"
_SAVE = re.compile(r"logger\.info\('(\.+ ?(?:Saving ckpt|Start to save checkpoint[a-z ]*?) ?\.+)'")


class Tensor:
    """In the place of MindSpore's: it has a value, and prints like it."""

    def __init__(self, value: Any) -> None:
        self._value = np.asarray(value)

    def asnumpy(self) -> Any:
        return self._value

    def __str__(self) -> str:
        return str(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)


class _Schedule:
    """In the place of MindSpore's LearningRateSchedule."""


class _Callback:
    """In the place of MindSpore's; what calls it is the test."""


def _wheel(version: str) -> Path | None:
    path = Path(FOLDER or "") / f"mindformers-{version}-py3-none-any.whl"
    return path if FOLDER is not None and path.exists() else None


def _installed(version: str) -> Path | None:
    """The folder of packages in which this version is."""
    places = _HOME.glob(f"lib/python3*/site-packages/mindformers-{version}.dist-info")
    return next((place.parent for place in places), None)


def wheels() -> list[str]:
    """The versions that are at hand."""
    return [version for version in VERSIONS if _wheel(version) or _installed(version)]


class Wheel:
    """One version, and the `lines` that its code has printed, as in info.log or as on standard output."""

    def __init__(self, version: str, *, to_file: bool = False) -> None:
        self.version = version
        self.lines: list[str] = []
        self.now = START
        self._place = _wheel(version) or _installed(version)
        names = self._cut(_LOGGER, {"logging": logging}, ("_DataFormatter",))
        formatter = names["_DataFormatter"](
            names["DEFAULT_FILEHANDLER_FORMAT" if to_file else "DEFAULT_STDOUT_FORMAT"]
        )
        formatter.converter = time.gmtime
        self.log = logging.Logger("mindformers./output/log")
        self.log.addHandler(_Printer(self, formatter))

    def _source(self, path: str) -> str:
        assert self._place is not None
        root = zipfile.Path(self._place) if self._place.suffix == ".whl" else self._place
        file = root / path
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def _cut(self, path: str, given: dict[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
        """These classes and functions of a module, and its constants; what it imports are stand-ins."""
        found: dict[str, Any] = {"__name__": "cut"}
        body: list[ast.stmt] = []
        for node in ast.parse(self._source(path)).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    name = (alias.asname or alias.name).partition(".")[0]
                    found[name] = MagicMock(name=name)
            elif isinstance(node, ast.Assign) and re.match("DEFAULT_[A-Z]+_FORMAT", ast.unparse(node)):
                body.append(node)
            elif isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in wanted:
                node.decorator_list = []
                body.append(node)
        found.update(given)
        exec(compile(ast.Module(body, []), f"/site-packages/{path}", "exec"), found)
        return found

    # Training in graph mode.

    def monitor(
        self, *, stages: int = 1, epochs: int, each: int, parts: bool = False, flops: float = 0.0, **more: Any
    ) -> Any:
        """Its MFLossMonitor; `each` steps are an epoch, and `stages` those of a pipeline."""

        def context(name: str) -> Any:
            return {"pipeline_stages": stages, "parallel_mode": "stand_alone"}.get(name, False)

        mindspore = MagicMock(name="ms", Tensor=Tensor, __version__="2.6.0")
        mindspore.get_auto_parallel_context = context
        mindspore.context.get_auto_parallel_context = context
        given: dict[str, Any] = {
            "ms": mindspore,
            "np": np,
            "Tensor": Tensor,
            "LearningRateSchedule": _Schedule,
            "Callback": _Callback,
            "logger": self.log,
            "deepcopy": lambda value: value,
            "time": SimpleNamespace(time=lambda: self.now),
            "timedelta": datetime.timedelta,
            "get_auto_parallel_context": context,
            "get_real_group_size": lambda: 2,
            "get_tensorboard_writer": lambda: None,
            "check_in_modelarts": lambda: False,
            "check_arf_status": lambda _: False,
            "is_legacy_model": lambda: True,
            "_check_mspti_is_on": lambda: False,
            "_log_grouped_lr_info": lambda: None,
        }
        if int(self.version.replace(".", "")) < 160:
            given["datetime"] = datetime
        names = self._cut(CALLBACK, given, ("MFLossMonitor", "_get_loss_output"))
        extra = [np.array([value]) for value in (2.5, 0.25, 0.125, 0.0)]
        count = 4 if "indexer_loss" in self._source(CALLBACK) else 3
        names["_get_separate_loss"] = lambda: tuple(extra[:count])
        monitor = names["MFLossMonitor"](
            origin_epochs=epochs, dataset_size=each, global_batch_size=4, per_print_times=1, **more
        )
        monitor.mf_support, monitor.mf_calculated, monitor.full_model_flops = False, flops > 0, flops
        if parts:
            monitor.print_separate_loss = monitor.is_moe_model = monitor.is_mtp_model = True
        return monitor

    def train(
        self, monitor: Any, outputs: Iterable[Any], *, sink: int = 0, each: int, ms: float = 314
    ) -> None:
        """Call it as MindSpore's Model does (train/model.py), for each output: of a step, or of a sink."""
        initial = getattr(monitor, "initial_step", 0)
        is_new = hasattr(monitor, "on_train_step_end")
        kinds = ("on_train_epoch_begin", "on_train_step_begin", "on_train_step_end")
        names = kinds if is_new else ("epoch_begin", "step_begin", "step_end")
        epoch_begin, begin, end = (getattr(monitor, name) for name in names)
        for number, output in enumerate(outputs):
            step = (number + 1) * (sink or 1)
            params = _Params(
                dataset_sink_mode=bool(sink),
                batch_num=sink or each,
                cur_step_num=step,
                cur_epoch_num=(step + initial - 1) // each + 1,
                net_outputs=output,
            )
            context = SimpleNamespace(original_args=lambda params=params: params)
            if number == 0 or (step + initial - 1) % each == 0:
                epoch_begin(context)
            begin(context)
            self.now += ms * (sink or 1) / 1e3
            end(context)

    # The rest.

    def finish_saving(self, folder: Path, step: int, each: int, seconds: float) -> None:
        """The line of a checkpoint that is whole, from 1.3.2; `step` and `each` as MindSpore counts them."""
        file = folder / f"x-{step}.ckpt"
        file.write_bytes(b"")
        os.utime(file, (START + seconds, START + seconds))
        none: dict[str, Any] = {"ckpt_file_path": None}
        info = {"ckpt": {"ckpt_file_path": str(file), "save_start_time": START}, "network": none}
        monitor = SimpleNamespace(save_info_list={step: {**info, "trainable_params": none}})
        given = {"logger": self.log, "os": os}
        self._method(CALLBACK, self._saver, "print_savetime", given)(monitor, step, each)

    @property
    def _saver(self) -> str:
        return (
            "CheckpointMonitor"
            if "class CheckpointMonitor" in self._source(CALLBACK)
            else "CheckpointMointor"
        )

    def _method(self, path: str, kind: str, name: str, given: dict[str, Any]) -> Callable[..., Any]:
        found: dict[str, Any] = {"Any": Any, "Dict": dict, **given}
        body = [self._node(path, kind, name)]
        exec(compile(ast.Module(body, []), f"/site-packages/{path}", "exec"), found)
        method: Callable[..., Any] = found[name]
        return method

    def _node(self, path: str, kind: str, name: str) -> ast.stmt:
        owners = (each for each in ast.parse(self._source(path)).body if getattr(each, "name", "") == kind)
        methods = (each for owner in owners for each in getattr(owner, "body", ()))
        return next(each for each in methods if getattr(each, "name", "") == name)

    @property
    def tells_whole(self) -> bool:
        """Whether it has a line for a checkpoint that is whole."""
        return "Finish saving" in self._source(CALLBACK)

    @property
    def has_pynative(self) -> bool:
        return bool(self._source(_LOSS))

    def pynative(self, **log_info: Any) -> None:
        """The line of a step of `mindformers.pynative`."""
        self._method(_LOSS, "LossCallback", "_print_log", {"logger": self.log})(None, log_info)

    def texts_of_trainer(self) -> list[str]:
        """What its trainer logs of a training, in the order of its code: texts without values."""
        calls = [
            node
            for node in ast.walk(self._node(TRAINER, "BaseTrainer", "training_process"))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logger.info"
        ]
        texts = [
            (call.lineno, call.args[0].value) for call in calls if isinstance(call.args[0], ast.Constant)
        ]
        return [str(text) for _, text in sorted(texts) if "%" not in str(text)]

    def texts_of_saves(self) -> list[str]:
        """The texts with which it tells that a save begins."""
        return [*_SAVE.findall(self._source(CALLBACK)), *_SAVE.findall(self._source(_CHECKPOINT))]

    def say(self, text: str, path: str = TRAINER, level: str = "info") -> None:
        """A line with this text, as the logger prints it for that file."""
        code = compile(f"log.{level}({text!r})", f"/site-packages/{path}", "exec")
        exec(code, {"log": self.log})


def _outputs(version: str, losses: Iterable[float], *, with_rate: bool = True) -> list[tuple[Tensor, ...]]:
    """What a step gives: loss, overflow (of each second), loss scale, rate and, from 1.3.0, norm."""
    found = []
    for number, loss in enumerate(losses):
        scale = np.float32(65536.0 / 2**number)
        output = [Tensor(np.float32(loss)), Tensor(number % 2 == 1), Tensor(scale)]
        if with_rate:
            output.append(Tensor(np.float32(1e-5 * (number + 1))))
        if with_rate and version >= "1.3":
            output.append(Tensor(np.array([0.9909903 + number], np.float32)))
        found.append(tuple(output))
    return found


def scenes(version: str, folder: Path) -> dict[str, list[str]]:
    """What this version prints in each of some situations, see `test_mindformers_lines`."""

    def trained(losses: Iterable[float], *, sink: int = 0, rate: bool = True, **more: Any) -> list[str]:
        wheel = Wheel(version, to_file=more.pop("to_file", False))
        monitor = wheel.monitor(epochs=2, each=4, **more)
        with warnings.catch_warnings():  # 1.7.0 takes arrays for numbers
            warnings.simplefilter("ignore", DeprecationWarning)
            wheel.train(monitor, _outputs(version, losses, with_rate=rate), sink=sink, each=4)
        return wheel.lines

    flops = 2.5e12 if version >= "1.6" else 0.0
    found = {
        "plain": trained(LOSSES, flops=flops),
        "file": trained(LOSSES[:1], to_file=True, flops=flops),
        "resumed": trained(LOSSES[:2], initial_step=5),
        "sink": trained(LOSSES, sink=2),
        "no_rate": trained(LOSSES[:1], rate=False),
        "pipeline": trained(LOSSES[:1], stages=2, micro_batch_num=2),
    }
    if version >= "1.7":
        found["parts"] = trained(LOSSES[:1], parts=True)
    if version >= "1.3.2":
        found["nan"] = trained([math.nan])
    trainer, saves = Wheel(version), Wheel(version)
    for text in trainer.texts_of_trainer():
        trainer.say(text)
    for text in saves.texts_of_saves():
        saves.say(text, CALLBACK)
    found.update(trainer=trainer.lines, saves=saves.lines)
    if trainer.tells_whole:
        whole = Wheel(version)
        whole.finish_saving(folder, 6, 4, 0.146)
        found["whole"] = whole.lines
    if trainer.has_pynative:
        step = {
            "cur_step": 7,
            "max_steps": 20,
            "step_time": 314,
            "consumed_samples": 28,
            "global_batch_size": 4,
        }
        more = {"grad_norm": 0.9909903, "learning_rate": 1e-5, "throughput": 12.34, "mtp_loss": None}
        pynative = Wheel(version)
        pynative.pynative(**step, loss=8.287561, **more)
        if version >= "2":
            pynative.pynative(**step, loss=None)
        found["pynative"] = pynative.lines
    return found


class _Params(SimpleNamespace):
    """In the place of MindSpore's `cb_params`."""

    optimizer = None

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


class _Printer(logging.Handler):
    def __init__(self, wheel: Wheel, formatter: logging.Formatter) -> None:
        super().__init__()
        self._wheel = wheel
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        now = self._wheel.now
        record.created, record.msecs = now, 1000 * (now % 1)
        self._wheel.lines.append(self.format(record))


if __name__ == "__main__":  # python -m tests.agent.mindformers_wheels: record the lines anew
    import json
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        recorded = {version: scenes(version, Path(name)) for version in wheels()}
    RECORDED.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
