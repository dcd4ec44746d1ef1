"""The table of what is no weight, in every command that reads checkpoints on this machine."""

import numpy as np
import pytest

from orchestrator.checkpoint.cut.coverage import is_moment, is_weight, weight_of
from orchestrator.checkpoint.files.tensor_files import read_ckpt, write_ckpt
from orchestrator.transfer.convert import plan_combine, write

# As MindFormers' training checkpoints have them.
STATE = (
    *("scale_sense", "beta1_power", "beta2_power", "epoch_size", "learning_rate", "global_step", "step_num"),
    *("epoch_num", "loss_scale", "current_iterator_step", "last_overflow_iterator_step"),
)
OF_WEIGHTS = (
    *("adam_m", "adam_v", "moment1", "moment2", "moments", "accum", "accu_grads", "exp_avg", "exp_avg_sq"),
    *("max_exp_avg_sq", "lamb_m", "vhat", "stat", "momentum_buf", "exp_avg_sq_row"),
)
WEIGHTS = ("blocks.0.attention.dense1.weight", "linear.weight", "moments", "accumulate.weight", "head.weight")


@pytest.mark.parametrize("prefix", OF_WEIGHTS)
def test_state_of_a_parameter(prefix):
    name = f"{prefix}.blocks.0.layernorm1.gamma"
    assert is_moment(name) and not is_weight(name)
    assert weight_of(name) == "blocks.0.layernorm1.gamma"


def test_counters_and_weights():
    assert not any(map(is_weight, STATE))
    assert all(map(is_weight, WEIGHTS)) and not any(map(is_moment, WEIGHTS))


def test_combining_leaves_all_of_it_behind(tmp_path):
    held = {"w": np.ones(4, np.float32), **{f"{prefix}.w": np.zeros(4, np.float32) for prefix in OF_WEIGHTS}}
    held |= {name: np.array(1, np.float32) for name in STATE}
    home = tmp_path / "checkpoint" / "rank_0"
    home.mkdir(parents=True)
    write_ckpt(home / "m_rank_0-1_10.ckpt", held.items())
    write(plan_combine(tmp_path, None), tmp_path / "a.ckpt")
    assert list(read_ckpt(tmp_path / "a.ckpt")) == ["w"]
