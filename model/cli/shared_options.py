"""What verbs share: lines and bars on the terminal, errors as a line and an exit code, the frame of a worker.

Also the options of those that are no job's: `--device`, and `--checkpoint`, `--config`, `--tokenizer`.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config.yaml_table import read_table
from model.devices.device_name import CPU, DeviceName, npus_left_alone, parse_device
from model.errors import ModelError
from orchestrator.core.errors import OrchestrateError
from orchestrator.core.paths import RunDir

# Each verb imports this module: what one of them needs it brings in itself.
if TYPE_CHECKING:
    from model.config.settings import Settings, Worker
    from model.phases import Phases

__all__ = [
    "TOKENIZER",
    "ModelFiles",
    "add_device",
    "add_json",
    "add_model_files",
    "bytes_bar",
    "configure",
    "device_of",
    "guarded",
    "marked_done",
    "note",
    "piece",
    "run_as_worker",
    "say",
    "say_data",
    "set_log_level",
]


def say(text: str) -> None:
    """One line to stdout, flushed: it may go to a log that somebody follows."""
    print(text, flush=True)


def say_data(data: Mapping[str, object]) -> None:
    """What was made, as one line of JSON."""
    say(json.dumps(data))


def add_json(parser: argparse.ArgumentParser) -> None:
    """Whether what was made is told as data."""
    parser.add_argument("--json", action="store_true", help="tell what was made as one line of JSON")


def piece(text: str) -> None:
    """A part of a line that is not over."""
    print(text, end="", flush=True)


def _silent(done: int, total: int) -> None:
    pass


def note(text: str) -> None:
    """What a person should know, on stderr."""
    print(f"note: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def bytes_bar() -> Iterator[Callable[[int, int], None]]:
    """Gives `progress(done, total)` in bytes; nothing is drawn where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield _silent
        return
    # Late: a worker's Python may have no rich, and a worker has no terminal.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("convert", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


_INTERRUPTED = 5
# What setup.cfg's `worker` asks for, by the names under which it is imported.
_WORKER_EXTRA = ("mindspore", "tokenizers", "safetensors", "huggingface_hub", "numpy")


def guarded(run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Run a verb; the exit code, after a line on stderr for each problem if it failed."""
    try:
        run(args)
    except (ModelError, OrchestrateError) as error:
        return _told(error.exit_code, *error.lines())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _WORKER_EXTRA:
            raise
        what = f"{error.name} is not installed in {sys.executable} (pip install 'orchestrate[worker]')"
        return _told(ModelError.exit_code, what)
    except OSError as error:
        return _told(OrchestrateError.exit_code, f"{error.filename or 'I/O'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return _told(_INTERRUPTED, "interrupted")
    return 0


def _told(code: int, *lines: str) -> int:
    for line in lines:
        print(f"error: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return code


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where it computes: nobody's NPU is taken unasked."""
    text = "cpu, or Ascend:N, the NPU with that number (default cpu)"
    parser.add_argument("--device", metavar="DEVICE", help=text)


def device_of(args: argparse.Namespace, devices: Path = Path("/dev")) -> DeviceName:
    """What the option says, else the CPU, with a line on stderr where there are NPUs. Raises ModelError.

    To be called before MindSpore is imported.
    """
    device = parse_device(args.device) if args.device is not None else CPU
    set_log_level(device.target)
    if args.device is None and (text := npus_left_alone(devices)):
        note(f"{text}; --device Ascend:0 uses one")
    return device


def set_log_level(target: str, env: MutableMapping[str, str] = os.environ) -> None:
    """Errors only on a CPU, where warnings on every connection would bury a worker's own lines.

    On an Ascend warnings too: there they tell of a CANN that does not fit, or of HCCL. MindSpore reads GLOG_v
    when it is imported; a value that the user has set stays.
    """
    env.setdefault("GLOG_v", "2" if target == "Ascend" else "3")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the job's worker.yaml")


def run_as_worker(args: argparse.Namespace, work: Callable[[Settings, Worker, Phases], None]) -> None:
    """Do `work`, or what a scheduler does where the environment says that this process is one.

    `work` is given the phases to report. SIGUSR1 shows the stacks of all threads, from here on.
    """
    # To the log, and also while native code runs; the process goes on.
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=False)
    from model.config.settings import Worker, load_settings
    from model.phases import STACKS, Phase, Phases

    # The checks need no MindSpore, which takes seconds to import.
    settings, worker = load_settings(args.config), Worker.from_environment(os.environ)
    set_log_level(settings.device_target)
    if worker.is_scheduler:
        from model.parallel.distributed import serve_scheduler  # late, as above

        return serve_scheduler(settings, worker)
    phases = Phases(Path(), worker.rank)
    phases.announce(STACKS)
    phases.enter(Phase.IMPORT)
    with marked_done(worker.rank):
        work(located(settings), worker, phases)


def located(settings: Settings) -> Settings:
    """With the file that a model's name as `checkpoint.load` means: all who look there see one path."""
    from model.weights.hub import weights_at

    load = settings.checkpoint.load
    if load is None or (path := str(weights_at(load))) == load:
        return settings
    return replace(settings, checkpoint=replace(settings.checkpoint, load=path))


@contextlib.contextmanager
def marked_done(rank: int, home: Path = Path()) -> Iterator[None]:
    """Leave the mark of `AttemptDir.done` in `home` when the block has ended well, and only then.

    MindSpore closes its connections when the interpreter ends. Its cluster client then frees the one to the
    scheduler as soon as the answer to its goodbye is there, while the thread that received the answer may
    still read from it: SIGSEGV (MindSpore 2.10, CPU: one rank in 30 on a busy machine). Only the exit code is
    lost.
    """
    mark = RunDir(home).attempt.done(f"rank_{rank}")
    mark.unlink(missing_ok=True)
    yield
    with contextlib.suppress(OSError):  # a full disk: the work is no less done, but a crash will count
        mark.parent.mkdir(exist_ok=True)
        mark.touch()


TOKENIZER = "a tokenizer.json, a folder with one, or a model's name"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files that the options stand for; None: the one beside the checkpoint."""

    checkpoint: Path
    config: Path | None
    tokenizer: Path | None

    @staticmethod
    def of(args: argparse.Namespace) -> ModelFiles:
        """Find them; a model that is only a name is loaded and converted. Raises ModelError."""
        from model.weights.hub import checkpoint_file, tokenizer_file

        tokenizer = tokenizer_file(args.tokenizer) if args.tokenizer else None
        checkpoint = args.checkpoint or _named_in(args.config)
        return ModelFiles(checkpoint_file(checkpoint), args.config, tokenizer)


def _named_in(config: Path | None) -> str:
    """The checkpoint_name_or_path of a YAML of MindFormers. Raises ModelError where there is none."""
    table: Any = read_table(config) if config else {}
    for key in ("model", "model_config", "checkpoint_name_or_path"):
        table = table.get(key) if isinstance(table, Mapping) else None
    if not isinstance(table, str) or not table:
        where = f"{config}: model.model_config.checkpoint_name_or_path" if config else "--checkpoint"
        raise ModelError("is missing", where=where, remedy="name the weights with --checkpoint")
    return table


def add_model_files(
    parser: argparse.ArgumentParser,
    config: str = "config.yaml of a model",
    *config_flags: str,
    needs_checkpoint: bool = True,
) -> None:
    """Where the model is; `config` says what `--config` takes, `config_flags` what else it is called."""
    add = parser.add_argument
    add(
        "--checkpoint",
        required=needs_checkpoint,
        metavar="MODEL",
        help="a whole .ckpt or .safetensors, a folder with one, Hugging Face's folder, or a name such as "
        "bigscience/bloom-560m",
    )
    add(
        "--config",
        *config_flags,
        type=Path,
        metavar="FILE",
        help=f"{config}; default: config.yaml beside the checkpoint",
    )
    add("--tokenizer", metavar="MODEL", help=f"{TOKENIZER}; default: tokenizer.json beside the checkpoint")
