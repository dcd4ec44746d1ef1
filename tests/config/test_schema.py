"""The schema is read in the same way by `read`, as on workers, and by pydantic, as on the control node."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import create_model

from orchestrator.config import worker_config
from orchestrator.config.job import Job, JobCheckpoint
from orchestrator.config.job_file import load_job
from orchestrator.config.schema import read, written_name
from orchestrator.config.worker_config import ParallelDegrees, WorkerConfig, read_worker_config
from orchestrator.config.yaml_messages import Invalid
from orchestrator.config.yaml_reader import parse_yaml
from orchestrator.config.yaml_validation import validate
from orchestrator.core.errors import ConfigError
from orchestrator.plan.input_files import _code_files
from orchestrator.plan.make_plan import make_plan
from tests.config.support import inventory

ROOT = Path(__file__).parents[2]
SECTIONS: list[Any] = [
    worker_config.ParallelDegrees,
    worker_config.ModelChoice,
    worker_config.Data,
    worker_config.Train,
    JobCheckpoint,
    worker_config.PredictOptions,
]
VALUES = [
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "2",
    "7",
    "0.5",
    "-0.5",
    "1e-3",
    ".nan",
    ".inf",
    "-.inf",
    "''",
    "text",
    "'1'",
    "'1e-3'",
    "010",
    "~/x",
    "/x",
    "a/b",
    "dynamic",
    "none",
    "alpaca",
    "cosine",
    "label",
    "input",
    "tiny",
    "4294967296",
    "[]",
    "[a]",
    "[1]",
    "[[a]]",
    "{}",
    "{a: 1}",
]


def by_pydantic(cls: Any, text: str) -> Any:
    """The section, or the lines that say what is wrong with it."""
    try:
        return validate(parse_yaml("f", text.encode()), create_model("Top", **{cls.__name__: (cls, ...)}))
    except ConfigError as error:
        return error.lines()


def by_read(cls: Any, text: str) -> Any:
    file = parse_yaml("f", text.encode())
    try:
        return read(cls, file.data[cls.__name__])
    except Invalid as error:
        return file.refusal([((cls.__name__, *at), *words) for at, *words in error.findings]).lines()


@pytest.mark.parametrize("cls", SECTIONS, ids=lambda cls: cls.__name__)
def test_both_readers_take_the_same_and_say_the_same(cls: Any) -> None:
    taken, keys = 0, [written_name(item) for item in fields(cls)]
    needed = {"preset": "preset: tiny, "} if "preset" in keys else {}
    sections = [
        f"{{{''.join(text for name, text in needed.items() if name != key)}{key}: {value}}}"
        for key, value in product([*keys, "x"], VALUES)
    ]
    for section in [*sections, "{}", "[]", "text", "null"]:
        text = f"{cls.__name__}: {section}\n"
        theirs, ours = by_pydantic(cls, text), by_read(cls, text)
        theirs = theirs if isinstance(theirs, list) else getattr(theirs, cls.__name__)
        assert repr(ours) == repr(theirs), text
        taken += not isinstance(ours, list)
    assert len(keys) < taken < len(sections)


def test_a_key_with_a_word_of_pythons_has_no_other_name() -> None:
    for text, words in (
        ("{async: true}", None),
        ("{asynchronous: true}", "unknown key"),
        ("{asnc: true}", "did you mean `async`"),
    ):
        text = f"JobCheckpoint: {text}\n"
        theirs, ours = by_pydantic(JobCheckpoint, text), by_read(JobCheckpoint, text)
        if words is None:
            assert ours.asynchronous is True and theirs.JobCheckpoint == ours
        else:
            assert ours == theirs and words in ours[0]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("auto", "auto"), ("10m", 600.0), ("90", 90.0), (90, 90.0), ("1h30m", 5400.0), (None, None)],
)
def test_how_often_to_save_is_auto_or_a_time(written: Any, meant: Any) -> None:
    assert read(worker_config.CheckpointOptions, {"save_every": written}).save_every == meant


@pytest.mark.parametrize("written", ["often", "0", 0, -1, "0s", True, [], "10 m", float("inf")])
def test_what_is_no_time_to_save(written: Any) -> None:
    with pytest.raises(Invalid):
        read(worker_config.CheckpointOptions, {"save_every": written})


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("save_steps: 5, save_every: auto", "checkpoint.save_every: is given beside checkpoint.save_steps"),
        ("save_steps: 5, mtbf: 3h", "checkpoint.mtbf: is used by save_every: auto alone"),
        ("save_every: 10m, mtbf: 3h", "checkpoint.mtbf: is used by save_every: auto alone"),
    ],
)
def test_when_to_save_is_said_once_to_a_worker_and_in_a_job(tmp_path: Path, more: str, line: str) -> None:
    rest = "train: {steps: 9}\nmodel: {preset: tiny}\ndata: {path: d.json}\n"
    worker = tmp_path / "worker.yaml"
    worker.write_text(f"checkpoint: {{{more}}}\n{rest}")
    job = tmp_path / "job.yaml"
    job.write_text(
        f"name: x\ntask: finetune\nhosts: all\ndevices_per_host: 1\ncheckpoint: {{{more}}}\n{rest}"
    )
    for path, read_it in (
        (worker, lambda: read_worker_config(worker, WorkerConfig)),
        (job, lambda: load_job(job)),
    ):
        with pytest.raises(ConfigError) as caught:
            read_it()
        assert any(text.startswith(f"{path}:") and line in text for text in caught.value.lines())


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert read(worker_config.Train, {"steps": 4.0}).steps == 4
    with pytest.raises(Invalid, match=r"expected a whole number, got 4\.5"):
        read(worker_config.Train, {"steps": 4.5})


def test_every_key_that_a_worker_reads_is_one_of_a_job() -> None:
    jobs, workers = (get_type_hints(cls, include_extras=True) for cls in (Job, WorkerConfig))
    for name in {item.name for item in fields(WorkerConfig)} - {"run_id"}:
        ours, theirs = (_without_null(hints[name]) for hints in (workers, jobs))
        assert ours == theirs or issubclass(theirs, ours), name


def _without_null(hint: Any) -> Any:
    return get_args(hint)[0] if type(None) in get_args(hint) else hint


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_a_launch_writes_a_worker_reads(tmp_path: Path, path: Path) -> None:
    job = load_job(path)
    hosts = "defaults: {devices: 0-7}\nhosts: [{name: 'n[1-16]', address: '10.0.0.[1-16]'}]\n"
    written = tmp_path / "worker.yaml"
    written.write_text(make_plan(job, inventory(tmp_path, hosts)).worker_config)
    config = read_worker_config(written, WorkerConfig)
    assert config.task == job.task
    if job.model:  # where replicas are placed is none of the workers' business
        told = {item.name: getattr(job.parallel, item.name) for item in fields(ParallelDegrees)}
        assert config.parallel == ParallelDegrees(**told)
    else:
        assert config.parallel == WorkerConfig().parallel
    for name in ("model", "train", "predict", "chat", "device_target", "max_device_memory", "jit_level"):
        if job.task != "command" and (section := getattr(job, name)) is not None:
            assert getattr(config, name) == section, name


ON_A_HOST = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pydantic", "click", "rich", "paramiko", "fabric", "isal", "mindspore"}:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, ".")
from pathlib import Path
from model.config.settings import load_settings
print(load_settings(Path("good.yaml")).network().seq_length)
try:
    load_settings(Path("bad.yaml"))
except Exception as error:
    print(error)
"""


def test_what_is_shipped_reads_a_configuration_without_pydantic(tmp_path: Path) -> None:
    for source, name in _code_files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / name)
    (tmp_path / "good.yaml").write_text("task: chat\nmodel: {preset: tiny}\n")
    (tmp_path / "bad.yaml").write_text("task: chat\nchat: {top_kk: 5}\n")
    argv = [sys.executable, "-I", "-c", ON_A_HOST]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (
        "64\nbad.yaml:2: chat.top_kk: unknown key (did you mean `top_k`?)\n",
        "",
    )


def test_what_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    (written,) = (ROOT / "tests/fixtures/afcecfb/hosts/host1").glob("runs/train-*/worker.yaml")
    path = tmp_path / "worker.yaml"
    path.write_text(written.read_text().replace("@CODE@", "/code"))
    config = read_worker_config(path, WorkerConfig)
    assert (config.parallel.world_size, config.data.limit, config.checkpoint.save_steps) == (4, 16, 2)
    assert (config.train.steps, config.train.batch_size, config.train.eps) == (4, 2, 1e-8)
