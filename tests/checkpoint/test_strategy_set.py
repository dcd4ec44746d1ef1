import json

import pytest

from orchestrator.checkpoint.cut.slices import Layout
from orchestrator.checkpoint.files.strategy_files import (
    Strategy,
    StrategySet,
    parse_strategies,
    parse_strategy,
    read_strategy_set,
    write_strategy,
)
from orchestrator.core.errors import CheckpointError

ROWS, COLUMNS, WHOLE = Layout((2, 2), (0, -1)), Layout((2, 2), (-1, 0)), Layout((2, 2), (-1,))
FIRST = Strategy(0, {"w": ROWS, "b": WHOLE, "adam_m.w": ROWS})
SECOND = Strategy(1, {"v": COLUMNS})


def save(folder, strategies):
    folder.mkdir(exist_ok=True)
    for rank, strategy in strategies.items():
        write_strategy(folder / f"ckpt_strategy_rank_{rank}.ckpt", strategy)
    return folder


def merged(path, *strategies):
    names = {f"{one.stage}-{name}": layout for one in strategies for name, layout in one.layouts.items()}
    write_strategy(path, Strategy(0, names))
    return path


def as_json(path, strategy, prefix=""):
    layouts = {
        prefix + name: {
            "dev_matrix": list(layout.dev_matrix),
            "tensor_map": list(layout.tensor_map),
            "opt_weight_shard_size": layout.opt_weight_shard_size,
            "opt_weight_shard_step": layout.opt_weight_shard_step,
            "field": 0,
        }
        for name, layout in strategy.layouts.items()
    }
    items = {"MatMul": {"stage": strategy.stage, "parallel_strategy": [[1, 2]]}}
    content = {"current_stage": 1, "parallel_strategy_item": items, "parallel_layout_item": layouts}
    path.write_text(json.dumps(content))
    return path


def eight():
    return {rank: FIRST if rank < 4 else SECOND for rank in range(8)}


def test_every_form_tells_the_same(tmp_path):
    ranks = save(tmp_path / "ranks", eight())
    stages = save(tmp_path / "stages", {})
    write_strategy(stages / "stage_0.ckpt", FIRST)
    as_json(stages / "stage_1.json", SECOND)
    file = merged(tmp_path / "merged.ckpt", FIRST, SECOND)
    only = save(tmp_path / "only", {})
    merged(only / "merged_ckpt_strategy.ckpt", FIRST, SECOND)
    for path in (ranks, stages, file, only):
        found = read_strategy_set(path)
        assert (found.stages, found.ranks_per_stage, found.world_size) == ((FIRST, SECOND), 4, 8), path
        assert found.notes == ()
    assert found.by_rank() == eight()


def test_one_file_of_one_stage_is_enough(tmp_path):
    write_strategy(tmp_path / "a.ckpt", FIRST)
    assert read_strategy_set(tmp_path / "a.ckpt").world_size == 4
    assert read_strategy_set(as_json(tmp_path / "b.json", FIRST)).stages == (FIRST,)
    assert read_strategy_set(as_json(tmp_path / "c.json", FIRST, "0-")).stages == (FIRST,)


def test_a_merged_file_is_not_taken_for_a_rank_s(tmp_path):
    content = merged(tmp_path / "m.ckpt", FIRST, SECOND).read_bytes()
    assert parse_strategies(content, "m") == (FIRST, SECOND)
    with pytest.raises(CheckpointError, match="is merged from 2 stages"):
        parse_strategy(content, "m")


def test_a_stale_merged_file_is_left_aside_and_told(tmp_path):
    ranks = save(tmp_path / "s", eight())
    merged(ranks / "merged_ckpt_strategy.ckpt", FIRST, SECOND)
    (note,) = read_strategy_set(ranks).notes
    assert note.endswith("merged_ckpt_strategy.ckpt is left aside: the ranks' own files say it too")
    merged(ranks / "merged_ckpt_strategy.ckpt", Strategy(0, {"w": COLUMNS}), SECOND)
    found = read_strategy_set(ranks)
    assert found.stages == (FIRST, SECOND)
    assert found.notes[0].endswith("left aside: it says otherwise than the ranks' own files")


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        (
            {0: FIRST, 1: Strategy(0, {"w": COLUMNS, "b": WHOLE})},
            r"1.ckpt: contradicts .*_0.ckpt on w",
        ),
        ({0: FIRST, 1: Strategy(0, {"w": ROWS})}, "on b of stage 0"),
        ({4: SECOND}, "tells of stage 1, but not of stage 0"),
        ({0: FIRST, 8: Strategy(2, {"x": WHOLE})}, "tells of stage 0, 2, but not of stage 1"),
        ({0: FIRST, 4: Strategy(1, {"v": Layout((2, 4), (0, -1))})}, "rank 4 is in stage 0"),
        ({0: FIRST, 9: Strategy(1, {"v": Layout((2, 4), (0, -1))})}, "stage 0 has 4 ranks and stage 1 has 8"),
        ({0: FIRST, 1: SECOND}, "is of stage 1, but with 4 ranks a stage, rank 1 is in stage 0"),
        ({0: Strategy(0, {"w": ROWS, "b": Layout((3,), (0,))})}, "b is laid out for 3 ranks, others for 4"),
    ],
)
def test_what_does_not_fit_together_is_named(tmp_path, strategies, message):
    with pytest.raises(CheckpointError, match=message):
        read_strategy_set(save(tmp_path / "s", strategies))


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match="holds no strategy files"):
        read_strategy_set(save(tmp_path / "s", {}))
    with pytest.raises(CheckpointError, match="No such file"):
        read_strategy_set(tmp_path / "none.ckpt")
    assert StrategySet.of([FIRST]).by_rank()[3] == FIRST
