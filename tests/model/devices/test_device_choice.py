"""Which device a process computes on: named by a person, kept where set, refused where there is none."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from argparse import Namespace

import pytest

from model.__main__ import main
from model.cli.cmd_infer_mindir import _instead_of_lite
from model.cli.shared_options import device_of, set_log_level
from model.devices.device_choice import InUse, use_device
from model.devices.device_name import CPU, DeviceName, npus_left_alone, parse_device
from model.errors import ModelError
from model.parallel.distributed import open_alone
from tests.model.support.cluster import ROOT, environment, run_alone, write_job

NPU = DeviceName("Ascend", 3)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cpu", CPU),
        ("CPU", CPU),
        ("cpu:0", CPU),
        ("Ascend", DeviceName("Ascend", 0)),
        ("ascend:3", NPU),
        (" ASCEND:3 ", NPU),
    ],
)
def test_names(text, name):
    assert parse_device(text) == name
    assert parse_device(str(name)) == name


@pytest.mark.parametrize(
    "text", ["", "gpu", "npu:0", "Ascend:-1", "Ascend:x", "Ascend:٣", "cpu:1", "Ascend:1:2"]
)
def test_what_is_no_name(text):
    with pytest.raises(ModelError, match=r"^--device: expected cpu or Ascend:N, got "):
        parse_device(text)


def test_the_drivers_device_files_are_the_sign_of_npus(tmp_path):
    (tmp_path / "davinci_manager").touch()
    assert npus_left_alone(tmp_path) is None
    (tmp_path / "davinci5").touch()
    assert "runs on the CPU" in npus_left_alone(tmp_path)


def test_a_verb_that_nobody_gave_a_device_says_so_where_there_are_npus(tmp_path, capsys):
    assert device_of(Namespace(device=None), tmp_path) == CPU
    (tmp_path / "davinci0").touch()
    assert device_of(Namespace(device="ascend:3"), tmp_path) == NPU
    assert device_of(Namespace(device="cpu"), tmp_path) == CPU
    assert capsys.readouterr().err == ""
    assert device_of(Namespace(device=None), tmp_path) == CPU
    said = "note: this runs on the CPU, although the machine has NPUs; --device Ascend:0 uses one\n"
    assert capsys.readouterr().err == said


class MindSpore:
    """As much of it as chooses a device; `set_device` refuses as MindSpore does."""

    def __init__(self, name, is_fixed):
        self.state, self.told = InUse(name, is_fixed), []

    def in_use(self):
        return self.state

    def set_device(self, target, index):
        self.told.append((target, index))
        if self.state.is_fixed:
            raise RuntimeError("The 'mindspore.set_device' can not be modified.")
        self.state = InUse(DeviceName(target, index), is_fixed=True)

    def use(self, asked, notice=None):
        return use_device(asked, in_use=self.in_use, set_device=self.set_device, notice=lambda: notice)


def test_the_device_that_a_script_has_set_is_kept():
    mindspore = MindSpore(NPU, is_fixed=True)
    assert mindspore.use(None) == NPU and mindspore.use(NPU) == NPU
    assert not mindspore.told
    with pytest.raises(ModelError) as caught:
        mindspore.use(CPU)
    assert str(caught.value).startswith(
        "device: cannot be CPU: MindSpore is set to Ascend:3 (a process has one"
    )
    assert not mindspore.told, "a set_device that is refused has changed the context before"


def test_without_a_word_it_is_mindspores_own():
    assert MindSpore(NPU, is_fixed=False).use(None) == NPU
    mindspore = MindSpore(CPU, is_fixed=False)
    assert mindspore.use(NPU) == NPU and mindspore.told == [("Ascend", 3)]


def test_work_on_the_cpu_of_an_npu_server_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        assert MindSpore(CPU, is_fixed=False).use(None, notice="on the CPU") == CPU
    assert caplog.messages == ["on the CPU: mindspore.set_device, or device='Ascend:0', chooses one"]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        MindSpore(CPU, is_fixed=True).use(None, notice="on the CPU")
        MindSpore(CPU, is_fixed=False).use(CPU, notice="on the CPU")
    assert not caplog.messages, "who has said CPU is not told"


def test_a_network_alone_keeps_what_is_set():
    mindspore = MindSpore(CPU, is_fixed=True)
    session = open_alone(None, choose=mindspore.use)
    assert session.strategy.world_size == 1 and not mindspore.told
    with pytest.raises(ModelError, match="cannot be Ascend:3: MindSpore is set to CPU"):
        open_alone(NPU, choose=mindspore.use)


LEVELS = """
import mindspore as ms
from model.devices.device_name import DeviceName
from model.parallel.distributed import open_alone, set_context
from model.config.settings import Settings
from orchestrator.config.worker_config import Train

def level():
    return ms.context.get_jit_config().get("jit_level")

set_context(DeviceName("CPU"), "O1")
print(level())
open_alone(choose=lambda asked: DeviceName("Ascend", 3))
print(level())
set_context(DeviceName("Ascend"), Settings().level)
print(level())
open_alone(choose=lambda asked: DeviceName("Ascend", 3))
print(level())

import os
from model.parallel.distributed import open_session
from model.config.settings import Worker
open_session(Settings(), Worker())
print(os.environ.get("HCCL_DETERMINISTIC"))
for _ in range(2):
    open_session(Settings(train=Train(deterministic=True)), Worker())
print(os.environ["HCCL_DETERMINISTIC"])
"""


@pytest.mark.mindspore
def test_the_context_of_an_ascend_has_a_level_and_that_of_a_job_may_be_deterministic():
    """In a process of its own: the context stays."""
    done = subprocess.run(
        [sys.executable, "-c", LEVELS], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["None", "O0", "O1", "O1", "None", "true"], done.stderr


PROBE = """
import mindspore as ms, numpy as np
{before}
from model.devices.device_choice import device_in_use, use_device
from model.devices.device_name import CPU, DeviceName
print(device_in_use())
from model import AutoConfig, AutoModel
config = AutoConfig.from_pretrained("tiny", num_layers=1, hidden_size=16, num_heads=2, vocab_size=40)
for _ in range(2):
    model = AutoModel.from_config(config)
print(model.generate([5, 6], max_new_tokens=2)[0][:2], ms.get_context("device_target"))
try:
    AutoModel.from_config(config, device="Ascend:1")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.mindspore
@pytest.mark.parametrize(
    ("before", "fixed"),
    [
        ("", False),
        ("ms.set_device('CPU')", True),
        ("ms.set_context(device_target='CPU')", False),
        ("print(ms.ops.add(ms.Tensor(np.ones(1)), 1).asnumpy())", True),
    ],
    ids=["nothing said", "set_device", "set_context", "an operator ran"],
)
def test_a_script_of_its_own(before, fixed):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(before=before)],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *_, state, answer, refused = done.stdout.splitlines()
    assert state == f"InUse(name={CPU!r}, is_fixed={fixed})"
    assert answer == "[5, 6] CPU"
    assert refused.startswith("ModelError device: cannot be Ascend:1: MindSpore is set to CPU (a process has")


@pytest.mark.mindspore
def test_an_ascend_where_there_is_none_is_one_line(tmp_path):
    if os.path.exists("/dev/davinci_manager"):
        pytest.skip("this machine has NPUs")
    job = write_job(tmp_path, device_target="Ascend", train={"deterministic": True}, jit_level="O1")
    done = run_alone(tmp_path, "train", "--config", str(job))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(
        "error: device_target: cannot be Ascend:0: MindSpore finds no Ascend here: Load dynamic library"
    )


def test_a_wrong_name_is_one_line(tmp_path, capsys):
    ask = ("--checkpoint", str(tmp_path / "x.ckpt"), "--device", "npu:0")
    for words in (
        ("generate", "--prompt", "x", *ask),
        ("chat", *ask),
        ("evaluate", "--data", "x", *ask),
        ("export", *ask),
        ("infer-mindir", "--prefill_model_path", "x", "--increment_model_path", "y", "--device", "npu:0"),
    ):
        assert main(words) == 2
        assert capsys.readouterr().err == "error: --device: expected cpu or Ascend:N, got 'npu:0'\n"


@pytest.mark.parametrize(("target", "level"), [("CPU", "3"), ("Ascend", "2")])
def test_mindspore_warns_on_an_ascend_only(target, level):
    unsaid, said = {}, {"GLOG_v": "1"}
    set_log_level(target, unsaid)
    set_log_level(target, said)
    assert (unsaid, said) == ({"GLOG_v": level}, {"GLOG_v": "1"})


SAID = """
import os, sys
from argparse import Namespace
from pathlib import Path
from model.cli.shared_options import run_as_worker

def work(settings, worker, phases):
    print(os.environ["GLOG_v"], "mindspore" in sys.modules)

run_as_worker(Namespace(config=Path("worker.yaml")), work)
"""


@pytest.mark.parametrize(("target", "level"), [("Ascend", "2"), ("CPU", "3")])
def test_a_job_says_how_much_mindspore_logs_before_it_is_imported(tmp_path, target, level):
    """In a process without the variable."""
    env = {name: value for name, value in environment().items() if name != "GLOG_v"}
    write_job(tmp_path, device_target=target)
    done = subprocess.run(
        [sys.executable, "-c", SAID], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == [level, "False"], done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--device_id", "-3"), "is -3, but NPUs are counted from 0 on"),
        (("--device_id", "3", "--device", "cpu"), "is given beside --device (keep one of them)"),
        (("--device_id", "0", "--device", "Ascend:3"), "is given beside --device (keep one of them)"),
    ],
)
def test_a_device_id_that_means_none_is_refused(tmp_path, capsys, words, line):
    graphs = ("--prefill_model_path", "a.mindir", "--increment_model_path", "b.mindir")
    assert main(["infer-mindir", *graphs, *words]) == 2
    assert capsys.readouterr().err == f"error: --device_id: {line}\n"


def test_without_mindspore_lite_the_number_is_an_npu_of_mindspore(tmp_path, capsys):
    assert _instead_of_lite(7, tmp_path) == "cpu"
    assert capsys.readouterr().err == "note: --device_id 7: this machine has no NPU: the CPU computes\n"
    (tmp_path / "davinci7").touch()
    assert _instead_of_lite(7, tmp_path) == "Ascend:7"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("where", ["--device", "device"])
def test_a_refusal_names_what_the_device_was_asked_by(where):
    mindspore = MindSpore(CPU, is_fixed=True)
    with pytest.raises(ModelError, match=f"^{where}: cannot be Ascend:3: MindSpore is set to CPU"):
        mindspore.use(parse_device("Ascend:3", where))
