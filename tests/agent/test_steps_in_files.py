"""The step that a checkpoint of MindFormers says itself, and what `meta.json` names."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from orchestrator.agent.shard_ranges import list_shards
from orchestrator.agent.steps_in_files import list_metas, step_in_file
from orchestrator.checkpoint.files.tensor_files import write_ckpt, write_safetensors

WEIGHT = ("w", np.arange(1000, dtype=np.float32))


def saved(path: Path, *more: tuple[str, np.ndarray]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    write = write_safetensors if path.suffix == ".safetensors" else write_ckpt
    write(path, [WEIGHT, *more])
    return str(path)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize(
    ("more", "step"),
    [
        ([("global_step", np.array([24], np.int32)), ("step_num", np.array(25, np.int64))], 25),
        ([("global_step", np.array([24], np.int32))], 24),
        ([("step_num", np.array(25, np.float32))], 25),
        ([("step_num", np.array(25.5, np.float32))], None),
        ([("step_num", np.array(np.nan, np.float32))], None),
        ([("step_num", np.array(-1, np.int64))], None),
        ([("step_num", np.array([25, 26], np.int64))], None),
        ([], None),
    ],
)
def test_the_file_says_its_step(tmp_path: Path, suffix: str, more, step) -> None:
    assert step_in_file(saved(tmp_path / f"m_rank_0-2_5.{suffix}", *more)) == step


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_file_that_is_cut_says_nothing(tmp_path: Path, suffix: str) -> None:
    path = Path(saved(tmp_path / f"m_rank_0-2_5.{suffix}", ("step_num", np.array(25, np.int64))))
    for size in (path.stat().st_size - 3, 10, 0):
        os.truncate(path, size)
        assert step_in_file(str(path)) is None
    path.unlink()
    assert step_in_file(str(path)) is None


def test_shards_are_listed_with_their_steps_where_that_is_asked_for(tmp_path: Path) -> None:
    saved(tmp_path / "rank_0/m_rank_0-2_5.ckpt", ("step_num", np.array(25, np.int64)))
    (row,) = list_shards(str(tmp_path), with_steps=True)
    assert (row["epoch"], row["step"], row["global_step"]) == (2, 5, 25)
    (row,) = list_shards(str(tmp_path))
    assert "global_step" not in row


def test_what_meta_json_names(tmp_path: Path) -> None:
    file = Path(saved(tmp_path / "rank_0/m_rank_0-2_5.ckpt"))
    said = {
        0: json.dumps({"last_epoch": 2, "last_step": 5, "last_ckpt_file": file.name}),
        1: json.dumps({"last_epoch": 2, "last_step": 5, "last_ckpt_file": "m_rank_1-2_5.ckpt"}),
        2: '{"last_epoch": 2, "la',
        3: "[]",
        4: json.dumps({"last_ckpt_file": "../../rank_0/m_rank_0-2_5.ckpt"}),
        5: json.dumps({"last_ckpt_file": 5}),
    }
    for rank, text in said.items():
        (tmp_path / f"rank_{rank}").mkdir(exist_ok=True)
        (tmp_path / f"rank_{rank}/meta.json").write_text(text)
    (tmp_path / "rank_6").mkdir()
    (tmp_path / "rank_6/meta.json").symlink_to(tmp_path / "rank_0/meta.json")
    rows = [(row["rank"], row["file"], row["exists"]) for row in list_metas(str(tmp_path))]
    assert rows == [
        (0, file.name, True),
        (1, "m_rank_1-2_5.ckpt", False),
        *((rank, None, False) for rank in range(2, 7)),
    ]
    assert list_metas(str(tmp_path / "none")) == []
