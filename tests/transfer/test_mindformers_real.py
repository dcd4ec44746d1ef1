"""What the real MindFormers saves: read, collected, gone on from; held against what MindSpore sees."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml

from orchestrator.agent.shard_ranges import index_shard, list_shards
from orchestrator.agent.steps_in_files import list_metas
from orchestrator.checkpoint.cut.global_steps import by_global_step
from orchestrator.checkpoint.files.tensor_files import read_ckpt
from orchestrator.checkpoint.shard_index import ShardFile
from orchestrator.plan.mindformers_load import pointed
from orchestrator.transfer.collect import Collection
from orchestrator.transfer.collect_run import collect_run
from orchestrator.transfer.mindformers_saves import load_name, resume_words
from tests.transfer.mindformers_run import MindFormersRun

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-mindformers/bin/python"
pytestmark = [
    pytest.mark.mindspore,
    pytest.mark.skipif(
        not PYTHON.exists(), reason=f"no MindFormers: {PYTHON} is not there (make test makes it)"
    ),
]

LINE = re.compile(r"Epoch:\[ *(\d+)/.*? step:\[ *(\d+)/.*? loss:\[([\d.]+)/")
STEPS, SAVED = 12, 4  # of an epoch; after how many each is saved
# Three things of MindFormers 1.9.0 are for an Ascend alone: a fused kernel, both ends of the overflow check.
START = """
import sys
import mindspore
from mindformers.core.context import build_context
from mindformers.models.llama import llama_layer
from mindformers.tools.register import MindFormerConfig
from mindformers.trainer import Trainer
from mindformers.wrapper.wrapper import MFTrainOneStepCell

def begin_overflow_check(self, before, inputs):
    return before, inputs

def is_overflow(self, status, gradients):
    return mindspore.ops.zeros((), mindspore.bool_)

llama_layer.check_rmsnorm_big_kernel_valid = lambda *_: False
MFTrainOneStepCell.start_overflow_check = begin_overflow_check
MFTrainOneStepCell.get_overflow_status = is_overflow
config = MindFormerConfig(sys.argv[1])
build_context(config)
Trainer(config).train()
"""
DATA = {
    "data_loader": {"type": "MindDataset", "dataset_dir": "data.mindrecord", "shuffle": False},
    "input_columns": ["input_ids"],
    "num_parallel_workers": 1,
    "drop_remainder": True,
    "batch_size": 2,
    "repeat": 1,
}
NETWORK = {
    "type": "LlamaConfig",
    "batch_size": 2,
    "seq_length": 32,
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "vocab_size": 1000,
    "multiple_of": 32,
    "rms_norm_eps": 1e-5,
    "offset": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "ignore_token_id": -100,
    **dict.fromkeys(
        (
            "compute_dtype",
            "layernorm_compute_type",
            "softmax_compute_type",
            "rotary_dtype",
            "param_init_type",
        ),
        "float32",
    ),
    "use_past": False,
    "use_flash_attention": False,
    "use_rope_slice": True,
}
CONFIG = {
    "seed": 0,
    "run_mode": "train",
    "use_parallel": False,
    "auto_trans_ckpt": False,
    "trainer": {"type": "CausalLanguageModelingTrainer", "model_name": "llama_tiny"},
    "runner_config": {"epochs": 2, "batch_size": 2, "sink_mode": False},
    "optimizer": {"type": "AdamW", "betas": [0.9, 0.95], "eps": 1e-8},
    "lr_schedule": {
        "type": "CosineWithWarmUpLR",
        "learning_rate": 1e-3,
        "warmup_ratio": 0.03,
        "total_steps": -1,
    },
    "train_dataset": DATA,
    "train_dataset_task": {"type": "CausalLanguageModelDataset", "dataset_config": DATA},
    "context": {"mode": 0, "device_target": "CPU", "device_id": 0},
    "parallel": {"parallel_mode": 0},
    "parallel_config": {"data_parallel": 1, "model_parallel": 1, "pipeline_stage": 1, "micro_batch_num": 1},
    "model": {"model_config": NETWORK, "arch": {"type": "LlamaForCausalLM"}},
    "runner_wrapper": {"type": "MFTrainOneStepCell", "scale_sense": 1.0, "use_clip_grad": True},
}
MAKE_DATA = """
import sys
import numpy as np
from mindspore.mindrecord import FileWriter
writer = FileWriter(sys.argv[1], 1)
writer.add_schema({"input_ids": {"type": "int32", "shape": [-1]}}, "")
chance = np.random.default_rng(0)
writer.write_raw_data(
    [{"input_ids": chance.integers(3, 1000, 33, np.int32)} for _ in range(int(sys.argv[2]))]
)
writer.commit()
"""
LOAD = """
import sys
import numpy as np
import mindspore
for number, file in enumerate(sys.argv[1:]):
    held = mindspore.load_checkpoint(file, format=file.rpartition(".")[2])
    np.savez(f"seen_{number}.npz", **{name: each.asnumpy() for name, each in held.items()})
"""


class Trainings:
    """Trainings of one process, one after another, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python("-c", MAKE_DATA, "data.mindrecord", str(2 * STEPS))
        self.saves: dict[str, object] = {
            "type": "CheckpointMonitor",
            "prefix": "llama",
            "save_checkpoint_steps": SAVED,
        }

    def python(self, *words: str) -> str:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([PYTHON, *words], cwd=self.folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def train(self, name: str, words: Mapping[str, object], **saves: object) -> dict[int, float]:
        """The loss of each step, counted over all epochs."""
        self.saves.update(saves)
        config = {**CONFIG, "callbacks": [{"type": "MFLossMonitor"}, self.saves]}
        text = pointed(yaml.safe_dump(config), {**words, "output_dir": f"./{name}"})
        (self.folder / f"{name}.yaml").write_text(text)
        (self.folder / "start.py").write_text(START)  # MindSpore compiles its functions from the file
        said = self.python("start.py", f"{name}.yaml")
        found = (LINE.search(line) for line in said.splitlines())
        return {(int(m[1]) - 1) * STEPS + int(m[2]): float(m[3]) for m in found if m}

    def files(self, name: str) -> dict[int, ShardFile]:
        """What a training has saved, by the step that each file says."""
        rows = list_shards(str(self.folder / name / "checkpoint"), with_steps=True)
        return {file.step: file for file in by_global_step({"a": [ShardFile.of(row) for row in rows]})["a"]}


LONG = pytest.mark.skipif(not os.environ.get("REALITY"), reason="REALITY=1 saves in both formats (test-long)")


@pytest.mark.parametrize("suffix", [pytest.param("ckpt", marks=LONG), "safetensors"])
def test_read_collected_and_gone_on_from(tmp_path: Path, suffix: str) -> None:
    trainings = Trainings(tmp_path)
    fresh = {"load_checkpoint": "", "resume_training": False}
    losses = trainings.train(suffix, fresh, checkpoint_format=suffix)
    assert sorted(losses) == list(range(1, 2 * STEPS + 1))
    files = trainings.files(suffix)
    assert sorted(files) == [step for step in range(SAVED, 2 * STEPS + 1, SAVED)][-5:]
    (meta,) = list_metas(str(tmp_path / suffix / "checkpoint"))
    assert meta["exists"] and str(meta["file"]) in files[2 * STEPS].path

    # Our index has what MindSpore's loader sees, and what is collected has the same bits.
    step = STEPS + SAVED
    (ended_in := tmp_path / f"run-{suffix}").mkdir()
    ended = MindFormersRun(ended_in, "seed: 0\n", hosts=1, suffix=suffix)
    home = ended.home(0).root / "attempts/1/checkpoint/rank_0"
    shutil.copytree(Path(files[step].path).parent, home)
    output = tmp_path / f"{suffix}.ckpt"
    done = collect_run(ended.control, Collection(step=step, with_optimizer=True), output)
    assert done.choice.step == step
    trainings.python("-c", LOAD, files[step].path, str(output))
    with np.load(tmp_path / "seen_0.npz") as saved, np.load(tmp_path / "seen_1.npz") as collected:
        held = {name: tensor.array() for name, tensor in read_ckpt(output).items()}
        assert set(saved) == set(collected) == set(held)
        assert {entry["name"] for entry in index_shard(files[step].path)} == set(saved)
        for name in saved:
            assert saved[name].tobytes() == collected[name].tobytes() == held[name].tobytes(), name

    # From the file that a next attempt is given it goes on as if it had never stopped.
    load = tmp_path / "attempts/2/load" / load_name(0, files[step], world_size=1)
    load.parent.mkdir(parents=True)
    os.link(files[step].path, load)
    resumed = trainings.train(f"{suffix}-2", resume_words(2, {0: files[step]}, world_size=1))
    assert resumed == pytest.approx({at: loss for at, loss in losses.items() if at > step}, abs=1e-4)
    # The names of what it saves then begin anew within the epoch; the files say which step it is.
    again = trainings.files(f"{suffix}-2")
    assert sorted(again) == [step + SAVED, step + 2 * SAVED]
    assert Path(again[step + SAVED].path).stem.endswith(f"-2_{SAVED}")
